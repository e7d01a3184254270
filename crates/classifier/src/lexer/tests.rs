//! Tokens, statements and hints of texts.

use super::*;
use crate::hint::Place;

fn check(sql: &str, expected: &[&str]) {
    let lexed = Lexed::new(sql);
    let all = Tokens { sql, tokens: &lexed.tokens };
    let texts: Vec<&str> = (0..all.len()).map(|at| all.text(at)).collect();
    assert_eq!(texts, expected, "{sql}");
}

fn check_kind(sql: &str, expected: Kind) {
    let lexed = Lexed::new(sql);
    let kinds: Vec<Kind> = lexed.tokens.iter().map(|token| token.kind).collect();
    assert_eq!(kinds, [expected], "{sql}");
}

fn check_split(sql: &str, expected: &[&str]) {
    let lexed = Lexed::new(sql);
    let statements: Vec<String> = lexed.statements().into_iter().map(Tokens::join).collect();
    assert_eq!(statements, expected, "{sql}");
}

#[test]
fn tokens() {
    check("select a.b,1", &["select", "a", ".", "b", ",", "1"]);
    check("a=-1", &["a", "=", "-", "1"]);
    check("a@-1", &["a", "@-", "1"]);
    check("a--b\n+c", &["a", "+", "c"]);
    check("a*/* x /* y */ z */b", &["a", "*", "b"]);
    check("'a''b' 'c'", &["'a''b'", "'c'"]);
    check("'a' -- x\n 'b'", &["'a' -- x\n 'b'"]);
    check(r"E'a\'b' x", &[r"E'a\'b'", "x"]);
    check("$1 $x$ $y$ ' $x$ $$;$$", &["$1", "$x$ $y$ ' $x$", "$$;$$"]);
    check("x::int[1:2]", &["x", "::", "int", "[", "1", ":", "2", "]"]);
    check("1e5 1e 1.5 .5 1..2 0x1F 1_000", &["1e5", "1", "e", "1.5", ".5", "1", "..", "2", "0x1F", "1_000"]);
    check("j->>'a'", &["j", "->>", "'a'"]);
    check("\"a\"\"b\"(", &["\"a\"\"b\"", "("]);
}

#[test]
fn kinds() {
    check_kind("é", Kind::Word);
    check_kind("a$b", Kind::Word);
    check_kind("U&'d'", Kind::Text);
    check_kind("x'1F'", Kind::Text);
    check_kind("U&\"d\"", Kind::Unreadable);
    check_kind("'open", Kind::Unreadable);
    check_kind("/* open", Kind::Unreadable);
    check_kind("$x$ open", Kind::Unreadable);
    check_kind("\"\"", Kind::Unreadable);
    check_kind("\u{1}", Kind::Unreadable);
}

#[test]
fn statements() {
    check_split(" ; ;", &[]);
    check_split("a;b", &["a", "b"]);
    check_split("create rule r as on insert to t do (a; b); c", &["create rule r as on insert to t do ( a ; b )", "c"]);
    check_split(
        "create function f() returns int begin atomic select case when true then 1 end; select 2; end; c",
        &["create function f ( ) returns int begin atomic select case when true then 1 end ; select 2 ; end", "c"],
    );
    check_split("begin; end", &["begin", "end"]);
    check_split(
        "create function begin() returns int language sql as ''; set a = 1",
        &["create function begin ( ) returns int language sql as ''", "set a = 1"],
    );
}

#[test]
fn hints() {
    let check = |sql: &str, expected| assert_eq!(Lexed::new(sql).hint, expected, "{sql}");
    check("/* hakem: primary */ select 1", Some(Hint::place(Place::Primary)));
    check("select 1 /*hakem:replica*/", Some(Hint::place(Place::Replica)));
    check("select 1 -- hakem: replica", Some(Hint::place(Place::Replica)));
    check("/* hakem: replica */ select /* hakem: primary */ 1", Some(Hint::place(Place::Primary)));
    check("select '/* hakem: primary */'", None);
    check("/* hakem: other */ select 1", None);
    check("/**/ select 1", None);
}

#[test]
fn backslash_quote_is_ambiguous() {
    assert!(Lexed::new(r"select 'a\'").ambiguous);
    assert!(!Lexed::new(r"select E'a\''").ambiguous);
    assert!(!Lexed::new(r"select 'a\b'").ambiguous);
}
