"""pytorchvideo's EncodedVideo, an independent reader."""

import importlib.util

from video_ssl.models.networks.zoo import import_pytorchvideo


def encoded_video_class():
    """Returns pytorchvideo's EncodedVideo, or None where the package is not installed."""
    if importlib.util.find_spec("pytorchvideo") is None:
        return None
    return import_pytorchvideo("pytorchvideo.data.encoded_video").EncodedVideo
