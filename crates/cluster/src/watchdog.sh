# Owns the certain end of a cluster: waits until its owner closes the pipe or dies, then ends every process that lives
# in the directory "$1" or just below it, and removes the directory. It runs in its own process group and with no
# working directory of the cluster's, so that neither Ctrl-C nor itself hits it.
trap '' HUP INT QUIT TERM
while read -r _; do :; done

processes() {
    for process in /proc/[0-9]*; do
        for place in "$1" "$1"/*/; do
            if [ "$process/cwd" -ef "$place" ]; then echo "${process#/proc/}"; fi
        done
    done
}

# A postmaster that is about to die may fork once more, hence the rounds; they are bounded, since a process that hangs in
# the kernel cannot be helped.
rounds=500
while [ "$rounds" -gt 0 ] && pids=$(processes "$1") && [ -n "$pids" ]; do
    kill -KILL $pids
    sleep 0.02
    rounds=$((rounds - 1))
done

# A killed postmaster leaves its System V shared memory segment, and the kernel has only 4096 of them to give. The
# seventh line of its lock file holds key and identifier.
for lock in "$1"/*/postmaster.pid; do
    segment=$(sed -n '7s/.* //p' "$lock")
    if [ -n "$segment" ]; then ipcrm -m "$segment"; fi
done

rm -rf "$1"
