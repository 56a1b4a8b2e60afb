"""How frames are made for a model of `transformers`: from the file of its image or video processor, by its own rules.

Source: `image_processing_backends.py` and `video_processing_utils.py` of transformers: resize, center crop, rescale,
normalise, in this order.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from video_ssl.clips.crops import Kernel
from video_ssl.models.encoder_folder import EncoderError
from video_ssl.models.hub.config import HubConfig
from video_ssl.models.hub.families import side_of
from video_ssl.models.hub.folder import HubFolder
from video_ssl.models.preprocess_config import VideoPreprocess

logger = logging.getLogger(__name__)

#: Pillow's filters, in the order of its numbers.
KERNELS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_IMAGES, _CLIPS, _ALL = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
#: Files that may say how frames are made.
PROCESSORS = (_IMAGES, _CLIPS, _ALL)
#: What the library's classes take a size of one number for (a square, or the short side), and their own size of the
#: cut, which a file may leave out.  Names without their endings (ImageProcessor, ImageProcessorFast, ...).
_CLASSES: Mapping[str, tuple[bool, int | None]] = {
    "ViT": (True, None),
    "DeiT": (True, 224),
    "DINOv3ViT": (True, None),
    "VJEPA2": (True, 256),
    "Siglip": (False, None),
    "CLIP": (False, 224),
    "Bit": (False, 224),
    "VideoMAE": (False, 224),
}
_ENDING = re.compile(r"(?:(?:Image|Video)Processor(?:Fast|Pil)?|FeatureExtractor)$")
#: Class of a model whose file names none.  Source: `image_processing_auto.py` of transformers.
_CLASS_OF = {
    "vit": "ViT",
    "vit_mae": "ViT",
    "vit_msn": "ViT",
    "ijepa": "ViT",
    "deit": "DeiT",
    "dinov2": "Bit",
    "dinov3_vit": "DINOv3ViT",
    "clip_vision_model": "CLIP",
    "siglip_vision_model": "Siglip",
    "videomae": "VideoMAE",
    "vjepa2": "VJEPA2",
}
#: Ours, where the model says nothing: the frames of a clip of a model of images, and the distance of frames.
_FRAMES, _STRIDE = 8, 4


def read_processing(folder: HubFolder, config: HubConfig) -> VideoPreprocess:
    """Returns how clips are made for a tower.

    Raises:
        EncoderError: the folder has no processor, or one that does what is not done here.
    """
    clips = config.num_frames is not None
    found = read_frames(folder, model_type=config.model_type, clips=clips, config=config)
    if found is None:
        raise EncoderError(
            f"{folder.path} does not say how frames are made for it: expected "
            f"{' or '.join((*_names(clips=clips), _ALL))}. Save the "
            "processor of the model beside it (AutoImageProcessor, save_pretrained)."
        )
    return replace(found, num_frames=config.num_frames or _FRAMES, frame_stride=_STRIDE)


def read_frames(
    folder: HubFolder, *, model_type: str, clips: bool, config: HubConfig | None = None
) -> VideoPreprocess | None:
    """Returns how frames are scaled and normalised for a model, in the preprocessing of any clips; None where no file
    of the folder says it.

    Args:
        folder: of the model.
        model_type: as its configuration calls it.
        clips: it sees clips, not pictures.
        config: of the tower, where it is one whose settings matter (SigLIP 2).

    Raises:
        EncoderError: the processor does what is not done here.
    """
    said = _processor(folder, clips=clips)
    if said is None:
        return None
    name, found = said
    try:
        scaling = _scaling(found, model_type, config)
        mean, std = _statistics(found)
        return VideoPreprocess(mean=mean, std=std, **scaling)
    except ValueError as err:
        raise EncoderError(f"{folder.path / name}: {err}") from err


def _names(*, clips: bool) -> tuple[str, ...]:
    """Files that hold a processor alone, the likelier first."""
    return (_CLIPS, _IMAGES) if clips else (_IMAGES,)


def _processor(folder: HubFolder, *, clips: bool) -> tuple[str, Mapping[str, Any]] | None:
    """Name and content of the file that describes the processor."""
    inside = ("video_processor", "image_processor") if clips else ("image_processor",)
    for name in _names(clips=clips):
        found = folder.json(name)
        if found is not None:
            return name, found
    both = folder.json(_ALL) or {}
    for key in inside:
        if isinstance(both.get(key), Mapping):
            return _ALL, both[key]
    return None


def _scaling(found: Mapping[str, Any], model_type: str, config: HubConfig | None) -> dict[str, Any]:
    if found.get("do_resize") is False:
        raise ValueError("do_resize=false: frames must get one size. Set do_resize and size.")
    if found.get("do_pad"):
        raise ValueError("do_pad=true: frames are not padded here. Set do_pad to false.")
    kernel = _kernel(found.get("resample", 2))
    if config is not None and model_type == "siglip2_vision_model":
        return {"size": _naflex_side(found, config), "kernel": kernel}
    name = _class_of(found, model_type)
    size, crop = _size(found, name), _crop(found, name)
    said = size if isinstance(size, Mapping) else {}
    if size is None:
        raise ValueError("size=None must say height and width, or shortest_edge.")
    shortest = said.get("shortest_edge")
    if shortest is None:
        side = side_of(size, "size")
        if crop is not None and crop != side:
            raise ValueError(
                f"crop_size={crop} of frames that are stretched to size={side} is not known here: make them equal."
            )
        return {"size": side, "stretch": True, "kernel": kernel}
    if said.get("longest_edge") is not None:
        raise ValueError(
            "size with longest_edge makes frames of many sizes. Give shortest_edge alone."
        )
    short = side_of(shortest, "shortest_edge")
    if crop is None:
        logger.info(
            "frames keep their aspect for %s; the central square is taken", name or model_type
        )
        return {"size": short, "resize_to": short, "kernel": kernel}
    if crop > short:
        raise ValueError(
            f"crop_size={crop} is larger than shortest_edge={short}: borders would be black. Make it at most that."
        )
    return {"size": crop, "resize_to": short, "kernel": kernel}


def _class_of(found: Mapping[str, Any], model_type: str) -> str:
    """The class that the library would make of a file, without its ending."""
    keys = ("image_processor_type", "video_processor_type", "feature_extractor_type")
    said = next((found[key] for key in keys if found.get(key)), None)
    return _CLASS_OF.get(model_type, "") if said is None else _ENDING.sub("", str(said))


def _size(found: Mapping[str, Any], name: str) -> Any:
    """What the file says of the size; one number of a class that means the short side by it says so."""
    size = found.get("size")
    if not isinstance(size, int):
        return size
    if name not in _CLASSES and found.get("do_center_crop"):
        raise ValueError(
            f"size={size} of a {name or 'nameless'} processor may be a square or a short side, which a center crop "
            "tells apart. Give height and width, or shortest_edge."
        )
    is_square, _ = _CLASSES.get(name, (True, None))
    return size if is_square else {"shortest_edge": size}


def _crop(found: Mapping[str, Any], name: str) -> int | None:
    """Side of the central square that is cut out; None where nothing is."""
    if not found.get("do_center_crop"):
        return None
    _, usual = _CLASSES.get(name, (True, None))
    said = found.get("crop_size")
    return side_of(usual if said is None else said, "crop_size")


def _naflex_side(found: Mapping[str, Any], config: HubConfig) -> int:
    """Side of a square of as many patches as the processor allows, on whole patches."""
    patches = found.get("max_num_patches", config.settings["num_patches"])
    if not isinstance(patches, int) or not 1 <= patches <= 2**16:
        raise ValueError(f"max_num_patches={patches!r} must be a number of patches.")
    return int(patches**0.5) * config.patch_px


def _kernel(value: Any) -> Kernel:
    if value is None:
        return "bilinear"
    if not isinstance(value, int) or not 0 <= value < len(KERNELS):
        raise ValueError(
            f"resample={value!r} must be the number of one of Pillow's filters, 0 to 5."
        )
    return cast(Kernel, KERNELS[value])


def _statistics(
    found: Mapping[str, Any],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    factor, rescales = found.get("rescale_factor", 1 / 255), found.get("do_rescale", True)
    usual = isinstance(factor, float) and abs(factor * 255 - 1) < 1e-6
    if not rescales or not usual or found.get("offset"):
        raise ValueError(
            f"do_rescale={rescales} with rescale_factor={factor!r} and offset={found.get('offset')}: pixels come "
            "into 0..1 here. Set rescale_factor=1/255 without offset, and mean and std that fit."
        )
    if found.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = (_three(found.get(name), name) for name in ("image_mean", "image_std"))
    return mean, std


def _three(value: Any, name: str) -> tuple[float, float, float]:
    given = [value] * 3 if isinstance(value, (int, float)) else value
    numbers = isinstance(given, list) and all(
        isinstance(x, (int, float)) and not isinstance(x, bool) for x in given
    )
    if not numbers or len(given) != 3:
        raise ValueError(f"{name}={value!r} must be three numbers, of red, green and blue.")
    return float(given[0]), float(given[1]), float(given[2])
