"""The reader of the toy's published files: a matrix under the name `toy`."""

from toy_network.config import ToyConfig
from toy_network.network import Toy
from video_ssl.models.exchange.published_model import Published
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import load_weights


def read(source, *, family, sizes, num_heads, min_share):
    state = source.checkpoint.state
    if family == "auto" and "toy.weight" not in state:
        return None
    frames = sizes.num_frames or 4
    encoder = Toy(ToyConfig(width=len(state["toy.weight"]), num_frames=frames))
    report = load_weights(encoder, state, rename=[("toy.", "linear.")], min_share=min_share)
    preprocess = VideoPreprocess(num_frames=frames, frame_stride=2, size=32)
    return Published(encoder=encoder, preprocess=preprocess, family="toy", report=report)
