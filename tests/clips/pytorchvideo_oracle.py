"""pytorchvideo's EncodedVideo, which imports torchvision at the top for two names that it does not need here."""

import importlib
import importlib.util
import sys
import types


def encoded_video_class():
    """Returns pytorchvideo's EncodedVideo, or None where the package is not installed; leaves no stub behind."""
    if importlib.util.find_spec("pytorchvideo") is None:
        return None
    if "pytorchvideo.data.encoded_video" in sys.modules:
        return sys.modules["pytorchvideo.data.encoded_video"].EncodedVideo
    try:
        importlib.import_module("torchvision")
        stubs = {}
    except (ImportError, OSError, RuntimeError):  # absent, or a build that does not fit torch
        stubs = _stubs()
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        return importlib.import_module("pytorchvideo.data.encoded_video").EncodedVideo
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _stubs():
    names = (
        "torchvision",
        "torchvision.ops",
        "torchvision.datasets",
        "torchvision.datasets.folder",
    )
    stubs = {name: types.ModuleType(name) for name in names}
    stubs["torchvision.ops"].RoIAlign = type("RoIAlign", (), {})
    stubs["torchvision.datasets.folder"].make_dataset = None
    return stubs
