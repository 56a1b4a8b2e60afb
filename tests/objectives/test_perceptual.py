"""The perceptual term of a tokenizer's training: its value, where its gradient goes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hub_maker import library, make_model

from video_ssl.models.config import ImageViTConfig, ViTConfig
from video_ssl.models.encoders import EncoderError, load_encoder, save_encoder
from video_ssl.models.exchange.convert import convert
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.networks.frame_transformer import FrameTransformer
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.r2plus1d import R2Plus1D
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.networks.swin import VideoSwin
from video_ssl.models.networks.swin_config import SwinConfig
from video_ssl.models.networks.vatt import VattAudio
from video_ssl.models.networks.vatt_config import VattAudioConfig, VattHeadsConfig
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import Preprocess, SoundPreprocess, VideoPreprocess
from video_ssl.models.weights import WeightsError
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.tokenizer.config import Config
from video_ssl.objectives.tokenizer.objective import Objective
from video_ssl.recipes import ConfigError, build_config

VIT: dict[str, Any] = {"preset": None, "embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 8}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SMALL: dict[str, Any] = {
    "vq_tokenizer": {"architecture": "vq_tokenizer", "width": 8, "dim": 5, "vocab_size": 9},
    "discrete_vae": {"architecture": "discrete_vae", "width": 8, "vocab_size": 9},
}


def saved(folder: Path, network: Any, name: str, preprocess: Preprocess | None = None) -> Path:
    if preprocess is None:
        preprocess = VideoPreprocess(num_frames=4, size=32, mean=MEAN, std=STD)
    return save_encoder(folder, network, architecture=name, preprocess=preprocess, source={})


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MAE's encoder for pictures of 32 px, in training mode where nobody forbids it."""
    torch.manual_seed(1)
    network = ImageViT(ImageViTConfig(**VIT, image_size=32, drop_path=0.5))
    return saved(tmp_path_factory.mktemp("eyes") / "encoder", network, "image_vit")


def config_of(kind: str = "vq_tokenizer", *, crop: int = 32, **perceptual: Any) -> Config:
    """Of pictures of `crop` px; with the term where any of its settings is given."""
    content: dict[str, Any] = {"encoder": SMALL.get(kind, {"architecture": kind})}
    content |= {"crop": {"size": crop}}
    if perceptual:
        content["perceptual"] = {"source": {"run": "runs/mae"}, **perceptual}
    return build_config(Config, content, "objective")


def objective_of(config: Config, place: Path | None = None) -> Objective:
    torch.manual_seed(0)
    return Objective(config, stages={} if place is None else {"perceptual": place})


def batch_of(size: int = 32) -> dict[str, torch.Tensor]:
    shape = (2, 3, size, size, 3)
    rng = torch.Generator().manual_seed(4)
    return {"video": torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)}


def pictures_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return batch["video"].flatten(0, 1).movedim(-1, 1).float() / 255


def shown(pictures: torch.Tensor, frames: int = 1) -> torch.Tensor:
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    return ((pictures - mean) / std)[:, :, None].repeat(1, 1, frames, 1, 1)


def apart(true: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """1 - cosine, one token after the other."""
    pairs = zip(true.flatten(0, 1), seen.flatten(0, 1), strict=True)
    return torch.stack([1 - (a @ b) / (a.norm() * b.norm()) for a, b in pairs]).mean()


# The term ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("layers", [None, (0, -1)])
def test_the_term_is_the_mean_angle_of_tokens(
    kind: str, layers: tuple[int, ...] | None, eyes: Path
) -> None:
    """By hand with the same network, of the tokens behind its norm or those behind each block that is named."""
    config = config_of(kind, weight=0.7, layers=layers)
    objective, plain = objective_of(config, eyes).eval(), objective_of(config_of(kind)).eval()
    batch = batch_of()
    with torch.no_grad():
        found, without = objective(batch), plain(batch)
        true = pictures_of(batch)
        again = objective.encoder.trial(true, learn=False).pictures.clamp(0, 1)
        network: Any = load_encoder(eyes)
        expected = []
        for layer in layers or (None,):
            views = [network.layer_outputs(shown(x), layer)[1] for x in (true, again)]
            expected.append(apart(*views))
    term = torch.stack(expected).mean()
    assert term > 1e-3
    assert term != apart(*(network.tokens(shown(x)) for x in (true, again))) or layers is None
    torch.testing.assert_close(found.figures["loss_perceptual"], term, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.loss, without.loss + 0.7 * term, rtol=1e-5, atol=1e-6)
    assert found.figures.keys() - without.figures.keys() == {"loss_perceptual"}


@pytest.mark.parametrize(("size", "side"), [(None, 32), (16, 16)])
def test_pictures_are_scaled_whole_to_the_side_of_the_network(
    size: int | None, side: int, tmp_path: Path
) -> None:
    """Also where its own preprocessing cuts out the middle of larger frames; `size` takes another side."""
    torch.manual_seed(1)
    preprocess = VideoPreprocess(num_frames=4, size=32, resize_to=40, mean=MEAN, std=STD)
    network: Any = ImageViT(ImageViTConfig(**VIT, image_size=32)).eval()
    folder = saved(tmp_path / "eyes", network, "image_vit", preprocess)
    term: Any = objective_of(config_of(size=size), folder).frozen["perceptual"]
    true, again = pictures_of(batch_of(48)), torch.rand(6, 3, 48, 48)
    with torch.no_grad():
        views = [
            F.interpolate(x, (side, side), mode="bilinear", antialias=True) for x in (true, again)
        ]
        expected = apart(*(network.tokens(shown(x)) for x in views))
        found = term.distance(true, again)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_what_lies_outside_the_colors_is_cut_off_and_equal_pictures_are_not_apart(
    eyes: Path,
) -> None:
    term: Any = objective_of(config_of(weight=1.0), eyes).frozen["perceptual"]
    true, again = pictures_of(batch_of()), torch.randn(6, 3, 32, 32) * 50
    assert torch.equal(term.distance(true, again), term.distance(true, again.clamp(0, 1)))
    assert term.distance(true, true) == 0


_SWIN: dict[str, Any] = {"preset": None, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
#: Name in the table of networks, class, settings, and how often it is to see a picture.
VIDEO_NETWORKS: dict[str, tuple[str, Any, Any, int]] = {
    "tubelets": ("vit", VideoViT, ViTConfig(**VIT, image_size=32, num_frames=4), 2),
    "windows": ("swin", VideoSwin, SwinConfig(**_SWIN, embed_dim=4, num_frames=4), 2),
    "maps": ("r2plus1d", R2Plus1D, R2Plus1DConfig(widths=(4, 4, 4, 4, 8), num_frames=4), 4),
}


@pytest.mark.parametrize("kind", VIDEO_NETWORKS)
def test_an_encoder_of_clips_sees_a_picture_as_often_as_a_moment_has_frames(
    kind: str, tmp_path: Path
) -> None:
    name, network, settings, frames = VIDEO_NETWORKS[kind]
    torch.manual_seed(1)
    folder = saved(tmp_path / "eyes", network(settings), name)
    objective = objective_of(config_of(weight=1.0), folder).train()
    term: Any = objective.frozen["perceptual"]
    assert term.num_frames == frames
    true, again = pictures_of(batch_of()), torch.rand(6, 3, 32, 32)
    plain: Any = load_encoder(folder)
    with torch.no_grad():
        expected = apart(*(plain.tokens(shown(x, frames)) for x in (true, again)))
        torch.testing.assert_close(term.distance(true, again), expected, rtol=1e-3, atol=1e-6)
    objective(batch_of()).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


def test_a_model_of_transformers_that_was_converted(tmp_path: Path) -> None:
    library()
    make_model("dinov2", tmp_path / "dinov2")
    convert(tmp_path / "dinov2", tmp_path / "eyes")
    objective = objective_of(config_of(weight=1.0), tmp_path / "eyes").train()
    plain: Any = load_encoder(tmp_path / "eyes")
    true, again = pictures_of(batch_of()), torch.rand(6, 3, 32, 32)
    preprocess = plain.preprocess
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (preprocess.mean, preprocess.std))
    sides = (preprocess.size,) * 2
    mode = "bicubic" if preprocess.kernel == "bicubic" else "bilinear"
    views = [F.interpolate(x, sides, mode=mode, antialias=True) for x in (true, again)]
    with torch.no_grad():
        expected = apart(*(plain.tokens(((x - mean) / std)[:, :, None]) for x in views))
        found = objective.frozen["perceptual"].distance(true, again)  # type: ignore[attr-defined]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    objective(batch_of()).loss.backward()
    decoder = list(objective.encoder.decoder.parameters())
    assert all(p.grad is not None and p.grad.any() for p in decoder)


def test_a_published_file(tmp_path: Path) -> None:
    """MAE's own keys; such a file says nothing about pixels, and they are those of ImageNet."""
    torch.manual_seed(1)
    wide = {**VIT, "embed_dim": 384, "depth": 1, "num_heads": 6}
    network: Any = ImageViT(ImageViTConfig(**wide, image_size=32, cls_token=True)).eval()
    torch.save({"model": network.state_dict()}, tmp_path / "mae.pth")
    config = config_of(weight=1.0, size=32, source={"file": str(tmp_path / "mae.pth")})
    term: Any = objective_of(config, tmp_path / "mae.pth").frozen["perceptual"]
    assert (term.size, term.num_frames) == (32, 1)
    assert term.normalization.mean == (0.485, 0.456, 0.406)
    first = objective_of(config, tmp_path / "mae.pth").state_dict()
    assert all(torch.equal(first[k], v) for k, v in objective_of(config_of()).state_dict().items())
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"is not a checkpoint of MAE, VideoMAE or MVD"):
        objective_of(config, tmp_path / "other.pth")


def test_without_it_the_loss_has_the_same_bits_as_ever() -> None:
    objective = objective_of(config_of()).eval()
    assert not objective.frozen
    pictures = pictures_of(batch_of())
    with torch.no_grad():
        found = objective.encoder.trial(pictures, learn=False)
        expected = 10.0 * F.mse_loss(found.pictures, pictures) + 0.25 * found.distance
        assert torch.equal(objective(batch_of()).loss, expected)


# Gradients, precision, state ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SMALL)
def test_the_gradient_reaches_the_tokenizer_and_not_the_frozen_network(
    kind: str, eyes: Path
) -> None:
    """With no other term: through the decoder and, past the words, into the encoder."""
    config = build_config(
        Config,
        {
            "encoder": SMALL[kind],
            "crop": {"size": 32},
            "reconstruction_weight": 0.0,
            "commitment_weight": 0.0,
            "perceptual": {"source": {"run": "runs/mae"}},
        },
    )
    objective = objective_of(config, eyes).train()
    frozen = objective.frozen["perceptual"].module
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    out = objective(batch_of())
    out.loss.backward()
    torch.testing.assert_close(out.loss.detach(), out.figures["loss_perceptual"])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())
    assert not frozen.training
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
    assert all(torch.equal(before[k], v) for k, v in frozen.state_dict().items())


def test_the_term_pulls_features_together(eyes: Path) -> None:
    """A gradient of the wrong sign, or one that the frozen network had cut, would leave them apart."""
    term: Any = objective_of(config_of(weight=1.0), eyes).frozen["perceptual"]
    true = pictures_of(batch_of())
    again = torch.full_like(true, 0.5).requires_grad_()
    optimizer = torch.optim.Adam([again], lr=0.02)
    seen = []
    for _ in range(30):
        distance = term.distance(true, again)
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        seen.append(float(distance.detach()))
    assert seen[-1] < seen[0] / 2


def test_nothing_of_it_is_in_the_state_and_it_moves_along(eyes: Path) -> None:
    objective, plain = objective_of(config_of(weight=1.0), eyes), objective_of(config_of())
    assert objective.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(objective.state_dict()[name], value), name
    assert list(objective.encoders()) == ["encoder"]
    assert objective.encoders()["encoder"].module is objective.encoder
    objective.to("meta")
    parameters = objective.frozen["perceptual"].module.parameters()
    assert {p.device.type for p in parameters} == {"meta"}


def test_under_autocast_the_network_is_rough_and_the_term_in_float32(eyes: Path) -> None:
    term: Any = objective_of(config_of(weight=1.0), eyes).frozen["perceptual"]
    kinds = []
    term.module.blocks[0].mlp.register_forward_hook(lambda *given: kinds.append(given[-1].dtype))
    true, again = pictures_of(batch_of()), torch.rand(6, 3, 32, 32)
    exact = term.distance(true, again)
    with torch.autocast("cpu", torch.bfloat16):
        rough = term.distance(true, again)
    assert kinds == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0)


def test_a_step_with_it_is_one_graph(eyes: Path) -> None:
    objective = objective_of(config_of(crop=16, weight=1.0, layers=(0, 2)), eyes).eval()
    expected = objective(batch_of(16))
    torch._dynamo.reset()
    found = torch.compile(objective, backend="eager", fullgraph=True)(batch_of(16))
    torch.testing.assert_close(found, expected)


# What is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        ("vq_tokenizer", {"weight": 0.0}, r"perceptual\.weight=0\.0 must be positive"),
        ("vq_tokenizer", {"weight": -1.0}, r"perceptual\.weight=-1\.0 .*perceptual=null leaves"),
        ("vq_tokenizer", {"layers": []}, r"perceptual\.layers is empty: name at least one block"),
        ("vq_tokenizer", {"size": 0}, r"perceptual\.size=0 must be at least 1 pixel"),
        ("vq_tokenizer", {"source": {}}, r"exactly one of run, file, recipe and stage"),
        ("vq_tokenizer", {"source": {"run": "hub:x"}}, r"run='hub:x' is a model of .*ssl convert"),
        ("patch_words", {"weight": 1.0}, r"architecture=patch_words.*set objective\.perceptual=nu"),
    ],
)
def test_settings_that_make_no_sense(kind: str, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config_of(kind, **settings)


def test_networks_that_cannot_compare_pictures(eyes: Path, tmp_path: Path) -> None:
    heads = VattHeadsConfig(sound_dim=6, text_dim=5)
    sizes: dict[str, Any] = {"preset": None, "embed_dim": 8, "depth": 1, "num_heads": 2}
    sound = VattAudioConfig(
        **sizes, ffn_dim=12, heads=heads, patch_samples=8, num_samples=60, projection_dim=10
    )
    hears = SoundPreprocess(rate=16, num_samples=60)
    ears = saved(tmp_path / "ears", VattAudio(sound), "vatt_audio", hears)
    with pytest.raises(TypeError, match=r"holds a VattAudio, which sees sound, no pictures\. Name"):
        objective_of(config_of(weight=1.0), ears)
    frames = FrameTransformerConfig(
        backbone="small",
        small_width=4,
        num_frames=4,
        fc_dims=(8,),
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        ffn_dim=8,
        embed_dim=6,
        max_frames=6,
    )
    whole = saved(tmp_path / "whole", FrameTransformer(frames), "frame_transformer")
    with pytest.raises(TypeError, match="FrameTransformer, which gives no tokens, only clip and"):
        objective_of(config_of(weight=1.0), whole)
    with pytest.raises(ValueError, match=r"perceptual\.layers: layer=3 of 3 blocks: give 0 to 2"):
        objective_of(config_of(layers=[3]), eyes)
    with pytest.raises(
        ValueError, match=r"cannot see pictures of 20 pixels: .*patches of 8x8.* Set objective\.per"
    ):
        objective_of(config_of(size=20), eyes)
    with pytest.raises(ValueError, match=r"set objective\.perceptual\.source\.run, file or recipe"):
        objective_of(config_of(weight=1.0))
    with pytest.raises(EncoderError, match=r"no encoder .*nowhere"):
        objective_of(config_of(weight=1.0), tmp_path / "nowhere")


def test_it_is_a_stage_only_where_it_is_set() -> None:
    assert config_of().stages() == {}
    assert config_of(weight=1.0).stages() == {"perceptual": EncoderSource(run="runs/mae")}
