"""Where the `video-ssl` command begins, and `python -m video_ssl VERB ...`, the same (torchrun needs a module)."""

from __future__ import annotations

from video_ssl.cpu_threads import let_waiting_threads_sleep
from video_ssl.errors import one_sentence


def main() -> None:
    """Runs the command; loading it takes a second or more, so Ctrl-C ends that in a sentence, too."""
    let_waiting_threads_sleep()
    with one_sentence():
        from video_ssl.cli import main as run

        run()


if __name__ == "__main__":
    main()
