"""Tokenizers out of files of others, and what is refused in a tokenizer's place."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.models.config import ImageViTConfig
from video_ssl.models.encoders import load_encoder
from video_ssl.models.exchange.convert import convert
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.exchange.tokenizer_weights import load_tokenizer
from video_ssl.models.tokenizers.config import DalleConfig, PatchWordsConfig, VQKDConfig
from video_ssl.models.tokenizers.discrete_vae import DiscreteVAE
from video_ssl.models.tokenizers.dvae import DalleEncoder
from video_ssl.models.tokenizers.patch_words import PatchWords, nearest
from video_ssl.models.tokenizers.vq_config import DiscreteVAEConfig, VQConfig
from video_ssl.models.tokenizers.vq_tokenizer import Codebook, VQTokenizer
from video_ssl.models.tokenizers.vqkd import VQKD
from video_ssl.models.weights import WeightsError
from video_ssl.objectives.tokenizer.config import Config
from video_ssl.objectives.tokenizer.objective import Objective as Training
from video_ssl.recipes import build_config

CONFIG = DalleConfig(width=8, vocab_size=11)


def shaken(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    return module.eval()


@pytest.fixture(scope="module")
def dalle() -> DalleEncoder:
    return shaken(DalleEncoder(CONFIG))


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# OpenAI's pickled module ---------------------------------------------------------------------------


@pytest.fixture
def their_code() -> Iterator[types.SimpleNamespace]:
    """Classes under the names of OpenAI's code; after it nobody knows them."""
    made = {}
    for module, names in (
        ("dall_e.encoder", ("Encoder", "EncoderBlock")),
        ("dall_e.utils", ("Conv2d",)),
    ):
        place = types.ModuleType(module)
        for name in names:
            made[name] = type(name, (nn.Module,), {"__module__": module})
            setattr(place, name, made[name])
        sys.modules[module] = place
    sys.modules["dall_e"] = types.ModuleType("dall_e")
    yield types.SimpleNamespace(**made)
    for module in ("dall_e", "dall_e.encoder", "dall_e.utils"):
        sys.modules.pop(module, None)


def pickled(code: types.SimpleNamespace, state: dict[str, torch.Tensor]) -> nn.Module:
    """The module whose parameters these are, of their classes, with what else such modules hold."""
    root: nn.Module = code.Encoder()
    for key, value in state.items():
        here = root
        *path, name = key.split(".")
        for part in path:
            if part not in here._modules:
                kind = code.EncoderBlock if part.startswith("block_") else nn.Sequential
                here.add_module(part, code.Conv2d() if part in ("conv", "input") else kind())
            here = here._modules[part]  # type: ignore[assignment]
        here.register_parameter(name, nn.Parameter(value))
    blocks: nn.Module = root._modules["blocks"]  # type: ignore[assignment]
    blocks.add_module("relu", nn.ReLU())
    blocks.add_module("pool", nn.MaxPool2d(2))
    blocks.add_module("id_path", nn.Identity())
    root.device, root.use_mixed_precision = torch.device("cpu"), {True}  # type: ignore[assignment]
    return root


@pytest.mark.parametrize("archive", [True, False])
def test_the_pickled_module_of_openai(
    archive: bool,
    dalle: DalleEncoder,
    pictures: torch.Tensor,
    their_code: types.SimpleNamespace,
    tmp_path: Path,
) -> None:
    file = tmp_path / "encoder.pkl"
    module = pickled(their_code, dict(dalle.state_dict()))
    torch.save(module, file, _use_new_zipfile_serialization=archive)
    for name in ("dall_e", "dall_e.encoder", "dall_e.utils"):
        del sys.modules[name]
    found = load_tokenizer(file)
    assert torch.equal(found.encode(pictures), dalle.encode(pictures))
    assert found.vocab_size == 11
    assert "dall_e" not in sys.modules
    done = CliRunner().invoke(app, ["convert", str(file), str(tmp_path / "folder")])
    assert done.exit_code == 0, done.output
    assert torch.equal(load_tokenizer(tmp_path / "folder").encode(pictures), found.encode(pictures))
    report = json.loads((tmp_path / "folder" / "conversion.json").read_text())
    assert (report["family"], report["unused"], report["missing"]) == ("dalle", [], [])
    # Was wrong: sizes were ignored without a word, and heads that this network has not.
    convert(file, tmp_path / "large", sizes=Sizes(image_size=128, num_frames=4))
    preprocess = load_encoder(tmp_path / "large").preprocess
    assert (preprocess.size, preprocess.num_frames) == (128, 4)
    for given, told in (
        ({"sizes": Sizes(image_size=100)}, "--size=100 does not divide into cells of 8"),
        ({"num_heads": 2}, "--num-heads=2 would change nothing"),
    ):
        with pytest.raises(WeightsError, match=told):
            convert(file, tmp_path / "no", **given)


class Hostile:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def test_a_hostile_pickle_is_refused_by_name_and_never_run(
    dalle: DalleEncoder, their_code: types.SimpleNamespace, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    module = pickled(their_code, dict(dalle.state_dict()))
    module.hook = Hostile(trace)  # type: ignore[assignment]
    for archive in (True, False):
        torch.save(module, tmp_path / "encoder.pkl", _use_new_zipfile_serialization=archive)
        with pytest.raises(
            WeightsError, match=r"encoder\.pkl names posix\.mkdir, which .*nothing of it was run"
        ):
            load_tokenizer(tmp_path / "encoder.pkl")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Hostile(trace)))
    with pytest.raises(WeightsError, match=r"posix\.mkdir.*nothing of it was run"):
        load_tokenizer(tmp_path / "plain.pkl")
    assert not trace.exists()


def test_names_that_a_look_at_the_file_did_not_find_are_refused_too(
    their_code: types.SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader of modules has a list of its own, whatever `foreign_names` has seen."""
    trace = tmp_path / "trace"
    module = their_code.Encoder()
    module.hook = Hostile(trace)
    torch.save(module, tmp_path / "encoder.pkl")
    monkeypatch.setattr(
        "video_ssl.models.checkpoint_files.foreign_names", lambda path: ["dall_e.encoder.Encoder"]
    )
    with pytest.raises(WeightsError, match=r"only code could turn into an object"):
        load_tokenizer(tmp_path / "encoder.pkl")
    assert not trace.exists()


# The other forms -----------------------------------------------------------------------------------


def test_the_form_of_hugging_face_and_a_checkpoint_of_bevt(
    dalle: DalleEncoder, pictures: torch.Tensor, tmp_path: Path
) -> None:
    hub = {}
    for key, value in dalle.state_dict().items():
        name = key.replace(".block_", ".group.block_").replace("res_path.", "res_path.path.")
        hub[name[:-2] + {"w": ".weight", "b": ".bias"}[name[-1]]] = value.contiguous()
    save_file(hub, tmp_path / "model.safetensors")
    own = {f"cls_head.vae_encoder.{k}": v for k, v in dalle.state_dict().items()}
    own |= {"backbone.mask_token": torch.zeros(1, 1, 4)}
    torch.save({"meta": {"epoch": 1}, "state_dict": own}, tmp_path / "joint.pth")
    for name in ("model.safetensors", "joint.pth"):
        assert torch.equal(load_tokenizer(tmp_path / name).encode(pictures), dalle.encode(pictures))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page, not weights"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page, not weights"),
        (b"", "is empty"),
    ],
)
def test_a_page_in_place_of_a_tokenizer(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "encoder.pkl").write_bytes(content)
    with pytest.raises(WeightsError, match=text):
        load_tokenizer(tmp_path / "encoder.pkl")


def test_other_widths_and_what_is_no_tokenizer(dalle: DalleEncoder, tmp_path: Path) -> None:
    state = dict(dalle.state_dict())
    wide = {**state, "blocks.group_3.block_1.id_path.w": torch.zeros(40, 16, 1, 1)}
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(
        WeightsError, match=r"is not a whole tokenizer.*group_3\.block_1\.id_path\.w \[40"
    ):
        load_tokenizer(tmp_path / "wide.pth")
    torch.save({k: v for k, v in state.items() if "group_4" not in k}, tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match="has 3 groups of blocks: OpenAI's encoder has 4"):
        load_tokenizer(tmp_path / "cut.pth")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="has the keys of no tokenizer"):
        load_tokenizer(tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="has not the keys of a tokenizer of the family vqkd"):
        convert(tmp_path / "other.pth", tmp_path / "e", family="vqkd")


# BEiT v2's -----------------------------------------------------------------------------------------


def test_the_tokenizer_of_beit2(tmp_path: Path) -> None:
    """Against a slow version, from the keys of its code; the class token's position goes into the token."""
    torch.manual_seed(0)
    width, side, patch, words = 12, 2, 16, 9
    state: dict[str, torch.Tensor] = OrderedDict()
    state["encoder.cls_token"] = torch.randn(1, 1, width)
    state["encoder.pos_embed"] = torch.randn(1, side * side + 1, width)
    state["encoder.patch_embed.proj.weight"] = torch.randn(width, 3, patch, patch) / 2
    state["encoder.patch_embed.proj.bias"] = torch.randn(width)
    block = {
        "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
        "attn.q_bias": (width,), "attn.v_bias": (width,), "attn.qkv.weight": (3 * width, width),
        "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
        "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
    }  # fmt: skip
    state |= {f"encoder.blocks.0.{k}": torch.randn(shape) / 2 for k, shape in block.items()}
    state |= {f"encoder.fc_norm.{k}": torch.randn(width) for k in ("weight", "bias")}
    for layer, out in ((0, width), (2, 5)):
        state[f"encode_task_layer.{layer}.weight"] = torch.randn(out, width)
        state[f"encode_task_layer.{layer}.bias"] = torch.randn(out) / 9
    codes = F.normalize(torch.randn(words, 5), dim=-1)
    state |= {"quantize.embedding.weight": codes, "quantize.cluster_size": torch.ones(words)}
    state["decoder.cls_token"] = torch.zeros(1, 1, width)
    torch.save({"model": state, "epoch": 99}, tmp_path / "vqkd.pth")
    tokenizer = load_tokenizer(tmp_path / "vqkd.pth")
    assert (tokenizer.stride, tokenizer.vocab_size) == (patch, words)
    flat = torch.rand(9, 3, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    pictures = (flat + torch.rand(flat.shape) / 9).clamp(0, 1)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        own = state[f"encoder.{name}.weight"], state[f"encoder.{name}.bias"]
        return F.layer_norm(x, (width,), *own, eps=1e-6)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = F.conv2d(
        2 * pictures - 1,
        state["encoder.patch_embed.proj.weight"],
        state["encoder.patch_embed.proj.bias"],
        stride=patch,
    )
    x = torch.cat([state["encoder.cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], 1)
    x = x + state["encoder.pos_embed"]
    b = "blocks.0."
    y = norm(x, f"{b}norm1")
    q, k, v = (y @ state[f"encoder.{b}attn.qkv.weight"].T).chunk(3, -1)
    q, v = q + state[f"encoder.{b}attn.q_bias"], v + state[f"encoder.{b}attn.v_bias"]
    x = x + linear((q @ k.mT / width**0.5).softmax(-1) @ v, f"encoder.{b}attn.proj")
    y = F.gelu(linear(norm(x, f"{b}norm2"), f"encoder.{b}mlp.fc1"))
    x = x + linear(y, f"encoder.{b}mlp.fc2")
    y = linear(norm(x[:, 1:], "fc_norm"), "encode_task_layer.0").tanh()
    y = F.normalize(linear(y, "encode_task_layer.2"), dim=-1)
    wanted = (y @ codes.T).argmax(-1).view(9, side, side)
    assert len(wanted.unique()) > 2
    assert torch.equal(tokenizer.encode(pictures), wanted)
    assert VQKDConfig().vit.heads == 12


# Squares of pixels ---------------------------------------------------------------------------------


def test_squares_are_the_means_of_what_they_stand_for() -> None:
    """Pictures of a few flat colors: each becomes a word, and pictures come back as they were."""
    torch.manual_seed(0)
    config = build_config(
        Config, {"encoder": {"architecture": "patch_words", "vocab_size": 4}, "crop": {"size": 32}}
    )
    colors = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 250]], np.uint8)
    rng = np.random.default_rng(0)
    cells = colors[rng.integers(0, 4, (3, 2, 4, 4))].astype(int)
    cells += rng.integers(-5, 6, cells.shape)  # no two are quite the same
    video = torch.from_numpy(cells.astype(np.uint8).repeat(8, axis=2).repeat(8, axis=3))
    objective = Training(config).train()
    output = objective({"video": video})
    output.loss.backward()
    assert output.figures["words_used"] == 1
    assert output.figures["psnr_db"] > 35
    network = objective.encoder
    assert isinstance(network, PatchWords)
    assert network.squares.grad is not None
    assert network.squares.grad.abs().max() < 1e-3  # they are the means already
    pictures = video.flatten(0, 1).movedim(-1, 1).float() / 255
    words = network.encode(pictures)
    assert (network.decode(words) - pictures).abs().max() < 8 / 255
    rows = torch.randn(20, 3)
    known = torch.randn(6, 3)
    assert torch.equal(nearest(rows, known), torch.cdist(rows, known).argmin(1))


# Words under autocast -------------------------------------------------------------------------------


def test_words_are_compared_in_float32_under_autocast_too(
    dalle: DalleEncoder, pictures: torch.Tensor
) -> None:
    """Was wrong: with training.precision=bf16 words were compared in bfloat16, in which neighbours are equally near:
    one cell in seven got another word."""
    autocast = torch.autocast("cpu", torch.bfloat16)
    rng = torch.Generator().manual_seed(0)
    squares = PatchWords(PatchWordsConfig(vocab_size=64))
    colors = torch.rand(4, 3, 16, 16, generator=rng).repeat_interleave(8, 2).repeat_interleave(8, 3)
    shown = (colors + 0.03 * torch.randn(colors.shape, generator=rng)).clamp(0, 1)
    states = []
    for inside in (nullcontext(), autocast):
        torch.manual_seed(0)
        with inside:
            squares.filled.fill_(False)
            squares.trial(shown, learn=True)
        states.append(squares.squares.detach().clone())
    assert torch.equal(*states)
    told = squares.encode(shown)
    with autocast:
        assert torch.equal(squares.encode(shown), told)

    books, found = [], []
    vectors = F.normalize(torch.randn(2000, 16, generator=rng), dim=1)
    for inside in (nullcontext(), autocast):
        torch.manual_seed(0)
        book = Codebook(VQConfig(dim=16, vocab_size=256))
        with inside:
            book.learn(vectors)
            book.learn(vectors.flip(0))
            found.append(book.nearest(vectors))
        books.append(book.state_dict())
    assert torch.equal(*found)
    for name, value in books[0].items():
        assert torch.equal(books[1][name], value), name

    with torch.no_grad(), autocast:
        for network in (dalle, DiscreteVAE(DiscreteVAEConfig(width=4, vocab_size=5))):
            logits = network.logits if isinstance(network, DalleEncoder) else network.latents
            assert logits(pictures).dtype == torch.float32
        vq = VQTokenizer(VQConfig(width=4, dim=5, vocab_size=7)).eval()
        assert vq.latents(pictures).dtype == torch.float32


# Words that start anew -------------------------------------------------------------------------------


def test_words_are_not_all_drawn_anew_where_a_batch_has_fewer_cells_than_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Was wrong: a word was dead below a running count of 1, so that with fewer cells than words every word was drawn
    anew at every step, and nothing said so."""
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(32, 16), dim=1)
    book = Codebook(VQConfig(dim=16, vocab_size=64))
    book.learn(vectors)
    moved = []
    for _ in range(10):
        before = book.words.clone()
        book.learn(vectors)
        moved.append(int(((book.words - before).norm(dim=1) > 0.1).sum()))
    assert moved == [0] * 10
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 1
    for text in ("64 words", "32 cells", "0.5 for each", "global_batch_size", "vocab_size=16"):
        assert text in told[0]


def test_words_that_hardly_anything_is_taken_for_start_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(128, 16), dim=1)
    for counts, limit in ((4.0, 1.0), (2.0, 1.0), (1.0, 0.5)):
        book = Codebook(VQConfig(dim=16, vocab_size=64))
        book.counts.fill_(counts)
        book.counts[:8] = torch.arange(8) * limit / 4
        book.counts[8:16] = 2 * counts - book.counts[:8]  # the mean is what it was
        before = book.words.clone()
        book._restart(vectors)
        anew = (book.words != before).any(1)
        assert anew.nonzero().flatten().tolist() == [0, 1, 2, 3]
        assert (book.counts[:4] == counts).all()
        assert all((word == vectors).all(1).any() for word in book.words[:4])
    book = Codebook(VQConfig(dim=16, vocab_size=64, restart_below=0.0))
    book.counts.zero_()
    book.learn(vectors)
    assert not caplog.records


# A discrete VAE ------------------------------------------------------------------------------------


def discrete(vocab_size: int = 5, **settings: Any) -> Training:
    torch.manual_seed(0)
    encoder = {"architecture": "discrete_vae", "width": 8, "vocab_size": vocab_size, **settings}
    return Training(build_config(Config, {"encoder": encoder, "crop": {"size": 32}}))


def test_what_is_drawn_cools_along_a_cosine_and_the_training_says_when() -> None:
    objective = discrete(temperatures=[2.0, 0.5], cooling=0.5)
    network = objective.encoder
    assert isinstance(network, DiscreteVAE)
    found = []
    for progress in (0.0, 0.125, 0.25, 0.5, 1.0):
        objective.after_step(progress)
        found.append(float(network.temperature))
    wanted = [2.0, 0.5 + 1.5 * (1 + np.cos(np.pi / 4)) / 2, 1.25, 0.5, 0.5]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    again = discrete(temperatures=[2.0, 0.5], cooling=0.5)
    objective.after_step(0.25)
    again.load_state_dict(objective.state_dict())  # a training that goes on knows where it was
    assert float(again.encoder.temperature) == pytest.approx(1.25)


def test_its_loss_is_that_of_a_slow_version() -> None:
    """Soft draws by Gumbel noise while it learns, the likeliest words else, and the divergence from all words alike."""
    objective = discrete().train()
    objective.after_step(0.1)
    network = objective.encoder
    video = torch.randint(0, 256, (2, 2, 32, 32, 3), dtype=torch.uint8)
    pictures = video.flatten(0, 1).movedim(-1, 1).float() / 255
    torch.manual_seed(3)
    output = objective({"video": video})
    torch.manual_seed(3)
    logits = network.encoder(2 * pictures - 1)
    gumbel = -torch.empty_like(logits).exponential_().log()
    temperature = 1 / 16 + 15 / 16 * (1 + np.cos(0.2 * np.pi)) / 2
    shares = torch.softmax((logits + gumbel) / temperature, 1)
    p = logits.softmax(1)
    divergence = (p * (p * 5).log()).sum(1).mean()
    wanted = 10 * (network.decoder(shares) - pictures).square().mean() + 0.25 * divergence
    torch.testing.assert_close(output.loss, wanted)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    objective.eval()
    words = network.encode(pictures)
    assert torch.equal(words, logits.argmax(1))
    seen = network.decoder(F.one_hot(words, 5).movedim(-1, 1).float())
    torch.testing.assert_close(network.decode(words), seen.clamp(0, 1))
    again = objective.reconstructed({"video": video})
    torch.testing.assert_close(again.flatten(0, 1).movedim(-1, 1), seen.clamp(0, 1))
    drawn = objective({"video": video}).loss
    assert torch.equal(drawn, objective({"video": video}).loss)  # nothing is drawn in evaluation


def test_it_learns_to_tell_colors_by_words() -> None:
    """Pictures of four flat colors: with a little divergence it uses several words, and pictures come back."""
    objective = discrete(vocab_size=8, width=16).train()
    object.__setattr__(objective.config, "commitment_weight", 0.02)
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
    colors = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 250]], np.uint8)
    rng = np.random.default_rng(0)
    for step in range(400):
        cells = colors[rng.integers(0, 4, (4, 2, 2, 2))].repeat(16, axis=2).repeat(16, axis=3)
        output = objective({"video": torch.from_numpy(cells)})
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        objective.after_step((step + 1) / 400)
    objective.eval()
    figures = objective({"video": torch.from_numpy(cells)}).figures
    assert figures["words_used"] >= 3 / 8  # one word would be a collapse
    assert figures["psnr_db"] > 9.5  # one grey for all of them gives 7.4, one color too few 8.5


def test_settings_of_tokenizers() -> None:
    with pytest.raises(ValueError, match=r"temperatures=\(0.5, 1.0\) must be positive, the second"):
        DiscreteVAEConfig(temperatures=(0.5, 1.0))
    with pytest.raises(ValueError, match=r"cooling=0.0 must lie in \(0, 1\]"):
        DiscreteVAEConfig(cooling=0.0)
    with pytest.raises(ValueError, match="width=7 must be even"):
        DiscreteVAEConfig(width=7)
    with pytest.raises(ValueError, match="vocab_size=1 must be at least 2"):
        PatchWordsConfig(vocab_size=1)
    with pytest.raises(ValueError, match="width=6 must be a multiple of 4"):
        DalleConfig(width=6)
    with pytest.raises(ValueError, match="dim=0 must be at least 1"):
        VQKDConfig(dim=0)
    vit = ImageViTConfig(preset="Ti", image_size=32, positions="learned")
    with pytest.raises(ValueError, match=r"do not divide into cells of 16 pixels"):
        VQKD(VQKDConfig(vit=vit, dim=2, vocab_size=3)).encode(torch.zeros(1, 3, 24, 24))
