"""What applications do with Django's ORM, through the proxy that libpq's environment variables
point at."""

import os
import sys
import tempfile
import threading

import django
from django.conf import settings
from django.core.management import call_command


def main():
    e = os.environ
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": e["PGHOST"], "PORT": e["PGPORT"], "USER": e["PGUSER"], "PASSWORD": e["PGPASSWORD"], "NAME": e["PGDATABASE"],
        # A connection for each thread, kept.
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
    }
    settings.configure(
        DATABASES={
            "default": database,
            # Each query's parameters bound by the server; prepared ones; a pool of its own.
            "bound": {**database, "OPTIONS": {"server_side_binding": True, "prepare_threshold": 0}},
            "pooled": {**database, "CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False, "OPTIONS": {"pool": {"min_size": 2, "max_size": 6}}},
            "serializable": {**database, "CONN_MAX_AGE": 0, "OPTIONS": {"isolation_level": 4, "options": "-c work_mem=5MB"}},
        },
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.postgres", "game"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        TIME_ZONE="Asia/Tehran",
    )
    with tempfile.TemporaryDirectory() as home:
        application(home)
        django.setup()
        for test in (migrations, introspection):
            test()
            print("ok", test.__name__)
        for alias in ("default", "bound", "pooled"):
            for test in (queries, atomic, iterators, at_once):
                test(alias)
                print("ok", alias, test.__name__)
        isolation()
        print("ok isolation")
        from django.db import connections

        connections.close_all()
        connections["pooled"].close_pool()
    print("done")


def application(home):
    """An application as a directory, which migrations want to be written to."""
    package = os.path.join(home, "game")
    os.makedirs(os.path.join(package, "migrations"))
    for name in ("__init__.py", "migrations/__init__.py"):
        open(os.path.join(package, name), "w").close()
    with open(os.path.join(package, "models.py"), "w") as file:
        file.write(MODELS)
    sys.path.insert(0, home)


MODELS = '''
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models

class Player(models.Model):
    name = models.CharField(max_length=100, unique=True)
    tricks = models.IntegerField(default=0)
    extra = models.JSONField(null=True)
    tags = ArrayField(models.TextField(), default=list)
    seen = models.DateTimeField(auto_now=True)

    class Meta:
        indexes = [GinIndex(fields=["tags"])]
        constraints = [models.CheckConstraint(condition=models.Q(tricks__gte=0), name="tricks_positive")]

class Card(models.Model):
    player = models.ForeignKey(Player, on_delete=models.CASCADE, related_name="cards")
    face = models.CharField(max_length=10)
'''


def migrations():
    from django.db import connection, migrations
    from django.db.migrations.executor import MigrationExecutor

    call_command("makemigrations", "game", verbosity=0)
    call_command("migrate", verbosity=0)
    call_command("migrate", verbosity=0)
    call_command("migrate", "game", "zero", verbosity=0)
    call_command("migrate", verbosity=0, database="default")
    # One that may not be in a transaction.
    from django.contrib.postgres.operations import AddIndexConcurrently
    from django.db import models

    executor = MigrationExecutor(connection)
    state = executor.loader.project_state()
    after = state.clone()
    operation = AddIndexConcurrently("player", models.Index(fields=["tricks"], name="by_tricks"))
    operation.state_forwards("game", after)
    with connection.schema_editor(atomic=False) as editor:
        operation.database_forwards("game", editor, state, after)
    call_command("sqlflush", stdout=open(os.devnull, "w"))


def introspection():
    from django.db import connection

    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        assert {"game_player", "game_card", "auth_user", "django_migrations"} <= set(tables), tables
        constraints = connection.introspection.get_constraints(cursor, "game_player")
        assert constraints["by_tricks"]["columns"] == ["tricks"] and constraints["tricks_positive"]["check"]
    with open(os.devnull, "w") as nowhere:
        call_command("inspectdb", "game_player", stdout=nowhere)


def queries(alias):
    from django.db import IntegrityError
    from django.db.models import Count, F, Prefetch, Sum
    from game.models import Card, Player

    players = Player.objects.using(alias)
    Player.objects.using(alias).all().delete()
    ada = players.create(name="ada", extra={"a": [1, None]}, tags=["x", "y"])
    Card.objects.using(alias).bulk_create([Card(player=ada, face=face) for face in ("king", "queen")])
    made = players.bulk_create([Player(name=f"p{i}", tricks=i) for i in range(1500)], batch_size=400)
    assert all(player.pk for player in made)
    players.filter(pk=ada.pk).update(tricks=F("tricks") + 5)
    ada.refresh_from_db()
    assert ada.tricks == 5 and ada.extra == {"a": [1, None]}
    assert list(players.filter(tags__contains=["x"]).values_list("name", flat=True)) == ["ada"]
    assert players.filter(extra__a__0=1).count() == 1
    assert players.filter(name__startswith="p").aggregate(total=Sum("tricks"))["total"] == sum(range(1500))
    found = players.annotate(hand=Count("cards")).filter(hand=2).prefetch_related(Prefetch("cards")).get()
    assert sorted(card.face for card in found.cards.all()) == ["king", "queen"]
    again, created = players.get_or_create(name="ada")
    assert again == ada and not created
    players.bulk_create([Player(name="ada", tricks=9)], update_conflicts=True, unique_fields=["name"], update_fields=["tricks"])
    ada.refresh_from_db()
    assert ada.tricks == 9
    for player in made[:50]:
        player.tricks += 1
    assert players.bulk_update(made[:50], ["tricks"]) == 50
    try:
        players.create(name="ada")
        raise AssertionError("no error")
    except IntegrityError as e:
        assert e.__cause__.sqlstate == "23505"
    assert players.raw("select * from game_player where name = %s", ["ada"])[0] == ada
    assert players.filter(name__startswith="p").explain().strip()
    assert players.in_bulk([ada.pk])[ada.pk] == ada


def atomic(alias):
    from django.db import DataError, IntegrityError, connections, transaction
    from game.models import Player

    players = Player.objects.using(alias)
    after = []
    with transaction.atomic(using=alias):
        players.create(name="outer")
        try:
            with transaction.atomic(using=alias):
                players.create(name="inner")
                players.create(name="ada")
        except IntegrityError:
            pass
        with transaction.atomic(using=alias):
            players.create(name="second")
        transaction.on_commit(lambda: after.append("commit"), using=alias)
        assert players.select_for_update(skip_locked=True).get(name="outer").name == "outer"
    assert after == ["commit"]
    assert set(players.filter(name__in=["outer", "inner", "second"]).values_list("name", flat=True)) == {"outer", "second"}
    try:
        with transaction.atomic(using=alias):
            players.create(name="gone")
            with connections[alias].cursor() as cursor:
                cursor.execute("select 1/0")
    except DataError:
        pass
    assert not players.filter(name="gone").exists()
    with transaction.atomic(using=alias):
        sid = transaction.savepoint(using=alias)
        players.create(name="gone")
        transaction.savepoint_rollback(sid, using=alias)
        # A constraint that is checked at the end.
        with connections[alias].constraint_checks_disabled():
            pass
        connections[alias].check_constraints()
    assert not players.filter(name="gone").exists()
    with transaction.atomic(using=alias, durable=True):
        players.filter(name__in=["outer", "second"]).delete()


def iterators(alias):
    from django.db import transaction
    from game.models import Player

    players = Player.objects.using(alias).order_by("pk")
    # Outside of a transaction: a cursor WITH HOLD, which pins the session until it is closed.
    assert sum(1 for _ in players.iterator(chunk_size=100)) == 1501
    for i, player in enumerate(players.iterator(chunk_size=100)):
        if i % 500 == 0:
            Player.objects.using(alias).filter(pk=player.pk).update(tricks=i)
        if i == 1100:
            break
    with transaction.atomic(using=alias):
        assert sum(1 for _ in players.iterator(chunk_size=1000)) == 1501
    walk, other = players.iterator(chunk_size=10), players.reverse().iterator(chunk_size=10)
    for _ in range(50):
        assert next(walk).pk < next(other).pk
    walk.close()
    other.close()
    assert players.count() == 1501


def at_once(alias):
    from django.db import connections, transaction
    from game.models import Player

    failures = []

    def work(i):
        try:
            players = Player.objects.using(alias)
            for n in range(10):
                with transaction.atomic(using=alias):
                    players.create(name=f"thread {alias} {i} {n}")
                # What was written is seen, wherever it is read.
                assert players.filter(name__startswith=f"thread {alias} {i} ").count() == n + 1
        except BaseException as e:
            failures.append(repr(e))
        finally:
            connections[alias].close()

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures


def isolation():
    from django.db import connections, transaction

    with connections["serializable"].cursor() as cursor, connections["default"].cursor() as other:
        for _ in range(3):
            with transaction.atomic(using="serializable"):
                cursor.execute("show transaction_isolation")
                assert cursor.fetchone() == ("serializable",)
            cursor.execute("show work_mem")
            assert cursor.fetchone() == ("5MB",)
            cursor.execute("show timezone")
            assert cursor.fetchone() == ("UTC",)
            other.execute("show transaction_isolation")
            assert other.fetchone() == ("read committed",)


if __name__ == "__main__":
    main()
