"""From a table of videos and a frozen encoder to a feature file."""

from video_ssl.callable_rooms import make_callable

make_callable(__name__)  # video_ssl.embed(...), see `video_ssl.verbs`
