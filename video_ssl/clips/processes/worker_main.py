"""What a data worker runs first, in place of the program that started it (see `video_ssl.clips.processes.workers`)."""

from video_ssl.clips.processes.workers import prepare_worker

if __name__ == "__mp_main__":
    prepare_worker()
