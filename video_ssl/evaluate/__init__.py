"""Frozen features and what they are worth."""

from video_ssl.callable_rooms import make_callable

make_callable(__name__)  # video_ssl.evaluate(...), see `video_ssl.verbs`
