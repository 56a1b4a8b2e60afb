"""`python -m video_ssl VERB ...`, the same as the `video-ssl` command (torchrun needs a module)."""

from video_ssl.cli import main

if __name__ == "__main__":
    main()
