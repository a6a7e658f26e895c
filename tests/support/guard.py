"""Processes that do not outlive the test process, not even one that was killed."""

# PR_SET_PDEATHSIG would fire already when the thread that started the process ends. So a shell, before it
# becomes the process, leaves a guard in its group instead. The guard reads from a pipe whose other end only
# the test process holds: end of file there means that nobody else will clean up. $$ is the process also in
# the guard, and no other one as long as the guard is in its group.
_LAUNCH = """\
exec 3<&0
{ read -r _ <&3; kill -KILL $$; [ -z "$0" ] || rm -rf "$0"; } &
exec "$@" </dev/null 3<&-
"""


def guarded(command: list[str], *, remove: str = "") -> list[str]:
    """The command with a guard; `remove` is a directory that goes with it if nobody else removes it.

    It must be started with `stdin=subprocess.PIPE` and `start_new_session=True`, and be ended as a group.
    """
    return ["sh", "-c", _LAUNCH, remove, *command]
