"""video_ssl: self-supervised video representation learning.

    import video_ssl

    encoder = video_ssl.load_encoder("runs/mine")
    found = encoder("talk.mp4")  # found.clip (D,), found.frames (T', D), found.times_sec (T',)
    features = video_ssl.embed("runs/mine", "videos.csv", "features.arrow", per_frame=True)

`dir(video_ssl)` lists all public names; what is imported from deeper may move.  Importing this package imports neither
torch nor jax, because every data worker passes through it: a name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_ssl.datasets.opening import open_table as open_table
    from video_ssl.embed.embed_videos import embed_table as embed_table
    from video_ssl.embed.features import open_features as open_features
    from video_ssl.embed.one_video import features_of_video as features_of_video
    from video_ssl.embed.one_video import read_clip as read_clip
    from video_ssl.explore.alignment import align as align
    from video_ssl.explore.alignment_video import write_side_by_side as write_side_by_side
    from video_ssl.explore.config import SearchConfig as SearchConfig
    from video_ssl.explore.exploration_maker import open_exploration as open_exploration
    from video_ssl.explore.plots import plot_alignment as plot_alignment
    from video_ssl.explore.plots import plot_map as plot_map
    from video_ssl.explore.plots import plot_matrices as plot_matrices
    from video_ssl.explore.plots import plot_nearest as plot_nearest
    from video_ssl.explore.scrubber import scrubber as scrubber
    from video_ssl.explore.search import search as search
    from video_ssl.models.collectives import gather_with_grad as gather_with_grad
    from video_ssl.models.encoders import load_encoder as load_encoder
    from video_ssl.models.encoders_flax import load_flax_encoder as load_flax_encoder
    from video_ssl.models.exchange.carl_weights import import_carl as import_carl
    from video_ssl.models.exchange.carl_weights import load_carl as load_carl
    from video_ssl.models.exchange.converted import load_classifier as load_classifier
    from video_ssl.verbs import embed as embed
    from video_ssl.verbs import evaluate as evaluate
    from video_ssl.verbs import pretrain as pretrain

__version__ = "0.1.0"

#: Public name -> its module, where it has the same name.
_MODULES = {
    "SearchConfig": "video_ssl.explore.config",
    "align": "video_ssl.explore.alignment",
    "embed": "video_ssl.verbs",
    "embed_table": "video_ssl.embed.embed_videos",
    "evaluate": "video_ssl.verbs",
    "features_of_video": "video_ssl.embed.one_video",
    "gather_with_grad": "video_ssl.models.collectives",
    "import_carl": "video_ssl.models.exchange.carl_weights",
    "load_carl": "video_ssl.models.exchange.carl_weights",
    "load_classifier": "video_ssl.models.exchange.converted",
    "load_encoder": "video_ssl.models.encoders",
    "load_flax_encoder": "video_ssl.models.encoders_flax",
    "open_exploration": "video_ssl.explore.exploration_maker",
    "open_features": "video_ssl.embed.features",
    "open_table": "video_ssl.datasets.opening",
    "plot_alignment": "video_ssl.explore.plots",
    "plot_map": "video_ssl.explore.plots",
    "plot_matrices": "video_ssl.explore.plots",
    "plot_nearest": "video_ssl.explore.plots",
    "pretrain": "video_ssl.verbs",
    "read_clip": "video_ssl.embed.one_video",
    "scrubber": "video_ssl.explore.scrubber",
    "search": "video_ssl.explore.search",
    "write_side_by_side": "video_ssl.explore.alignment_video",
}
#: Names that are rooms too: what is called is the package, see `callable_rooms`.
_ROOMS = ("embed", "evaluate", "pretrain")
__all__ = ["__version__", *_MODULES]

if not TYPE_CHECKING:  # a type checker knows the names above, and no others

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'video_ssl' has no attribute {name!r}")
        if name in _ROOMS:
            return import_module(f"video_ssl.{name}")
        try:
            return getattr(import_module(_MODULES[name]), name)
        except ModuleNotFoundError as err:
            if (err.name or "").partition(".")[0] not in ("jax", "flax"):
                raise
            raise ImportError(f"{name} needs {err.name}: pip install 'video_ssl[jax]'") from err


def __dir__() -> list[str]:
    return sorted(__all__)
