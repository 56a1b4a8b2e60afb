"""The training loop and what it leaves behind."""

from video_ssl.callable_rooms import make_callable

make_callable(__name__)  # video_ssl.pretrain(...), see `video_ssl.verbs`
