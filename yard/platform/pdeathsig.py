"""Parent-death signal: runs a program that gets a signal when its parent dies.

Nothing that `modelyard up` starts may outlive it, even if it is killed with SIGKILL and can clean
up nothing. Linux sends the signal (``prctl(2)``, ``PR_SET_PDEATHSIG``) to a process that has asked
for it, and Redis does not ask. So this file is started in its place, asks, and becomes the program;
the request outlives ``execve``. It runs as a script with ``-I -S`` in about 10 ms, because Python
code between fork and exec (``preexec_fn``) can deadlock once the parent has threads.

The signal is sent when the *thread* that started the child ends: start children from the main
thread.
"""

from __future__ import annotations

import os
import sys


def command(argv: list[str], signum: int) -> list[str]:
    """Returns the command line that runs ``argv`` as a child of this process, tied to it.

    ``argv[0]`` is a path or a name on the PATH. On other systems than Linux the child is not tied.
    """
    script = os.path.abspath(__file__)
    return [sys.executable, "-I", "-S", script, str(int(signum)), str(os.getpid()), *argv]


def main(arguments: list[str]) -> None:
    """Becomes the program ``arguments[2:]``; the first two are the signal and the parent's id."""
    signum, parent, program = int(arguments[0]), int(arguments[1]), arguments[2:]
    # With -I neither the package nor this folder is on the path; the standard library comes first.
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import prctl  # type: ignore[import-not-found]

    prctl.die_with_parent(signum)
    if os.getppid() != parent:  # it died before the request was made: no signal will come
        sys.exit(1)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"error: cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
