"""Models of transformers as encoders: features are the library's own, frames are made by the library's own rules.

Everything is compared with what the library computes by itself of the model that it has saved.  Tolerance of features:
1e-4 of numbers around 1, float32 in another order.
"""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_maker import IMAGES, MODELS, PROCESSORS, library, make_model, processor_of
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import video_ssl
from video_ssl.cli import app
from video_ssl.embed.features import open_features
from video_ssl.models.contract import CLIP, COMMON_TEXT, MOMENTS, TOKENS
from video_ssl.models.encoders import EncoderError, load_encoder
from video_ssl.models.hub.processing import _CLASSES

transformers = library()
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
#: Tokens before those of the patches.
FIRST = {"deit": 2, "ijepa": 0, "dinov2_with_registers": 4, "dinov3": 4, "siglip": 0, "siglip2": 0}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> (folder, the library's model), made once."""
    root, found = tmp_path_factory.mktemp("it's a hub"), {}

    def model(name):
        if name not in found:
            found[name] = root / name, make_model(name, root / name)
        return found[name]

    return model


def clips(frames: int = 4, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, frames, side, side, 3), dtype=np.uint8)


def pixels(encoder, given: np.ndarray) -> torch.Tensor:
    """What the library is given of clips: (B, T, 3, H, W), made here by hand."""
    mean, std = np.array(encoder.preprocess.mean), np.array(encoder.preprocess.std)
    x = (given / 255 - mean) / std
    return torch.from_numpy(x).float().permute(0, 1, 4, 2, 3)


def theirs(name: str, model, x: torch.Tensor) -> torch.Tensor:
    """The library's last hidden states of clips (B, T, 3, H, W), by its whole model: (B, T, L, D), or (B, L, D)."""
    if name == "videomae":
        return model.videomae(pixel_values=x).last_hidden_state
    if name == "vjepa2":
        return model(pixel_values_videos=x, skip_predictor=True).last_hidden_state
    return seen(name, model, x.flatten(0, 1)).last_hidden_state.unflatten(0, x.shape[:2])


def seen(name: str, model, frames: torch.Tensor):
    """What the library gives of frames (N, 3, H, W)."""
    inputs = {"pixel_values": frames}
    if name == "siglip2":
        # Patches in rows, as its image processor cuts them: (rows, columns, colors), colors last.
        rows = [
            torch.stack(
                [
                    frame[:, i : i + 8, j : j + 8].permute(1, 2, 0).flatten()
                    for i in range(0, frame.shape[1], 8)
                    for j in range(0, frame.shape[2], 8)
                ]
            )
            for frame in frames
        ]
        grid = torch.tensor([[frames.shape[2] // 8, frames.shape[3] // 8]] * len(frames))
        inputs = {"pixel_values": torch.stack(rows), "spatial_shapes": grid}
        inputs["pixel_attention_mask"] = torch.ones(inputs["pixel_values"].shape[:2])
    tower = getattr(model, "vision_model", getattr(model, "deit", model))
    return tower(**inputs)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_tokens_moments_and_clip_are_the_librarys(name, made):
    """Catches: wrong tokens cut off as class or registers, colors or frames in another order, a norm too many, weights
    that were not read."""
    folder, model = made(name)
    encoder = load_encoder(f"hub:{folder}")
    given = clips()
    found = encoder.outputs_of_arrays(given, [CLIP, MOMENTS, TOKENS])
    hidden = theirs(name, model, pixels(encoder, given))
    images = name in IMAGES
    if images:
        hidden = hidden[:, :, FIRST.get(name, 1) :]
        assert encoder.token_grid((4, 32, 32, 3)) == (4, 4, 4)
        assert encoder.frame_positions(4).tolist() == [0, 1, 2, 3]
    else:
        hidden = hidden.unflatten(1, (2, 16))
        assert encoder.token_grid((4, 32, 32, 3)) == (2, 4, 4)
        assert encoder.frame_positions(4).tolist() == [0.5, 2.5]
    assert encoder.frames_stand_alone == images
    np.testing.assert_allclose(found[TOKENS], hidden.flatten(1, 2), **CLOSE)
    np.testing.assert_allclose(found[MOMENTS], hidden.mean(2), **CLOSE)
    np.testing.assert_allclose(found[CLIP], hidden.flatten(1, 2).mean(1), **CLOSE)
    assert np.abs(found[TOKENS]).max() > 0.1


@pytest.mark.parametrize("name", [n for n in IMAGES if n != "ijepa"])
@torch.no_grad()
def test_what_stands_for_a_class_token_is_the_librarys(name, made):
    """Catches: the distillation token or a register taken for it, CLIP's without its norm, SigLIP's head left out."""
    folder, model = made(name)
    encoder = load_encoder(f"hub:{folder}")
    given = clips()
    found = encoder.outputs_of_arrays(given, [CLIP, MOMENTS], pooling="cls")
    outputs = seen(name, model, pixels(encoder, given).flatten(0, 1))
    pooled = name in ("clip", "siglip", "siglip2")
    expected = outputs.pooler_output if pooled else outputs.last_hidden_state[:, 0]
    np.testing.assert_allclose(found[MOMENTS].reshape(-1, encoder.embed_dim), expected, **CLOSE)
    np.testing.assert_allclose(found[CLIP], expected.unflatten(0, (2, 4)).mean(1), **CLOSE)


@pytest.mark.parametrize("name", ["ijepa", "videomae", "vjepa2"])
def test_a_class_token_that_is_not_there_is_refused(name, made):
    with pytest.raises(ValueError, match=r"no class token: use mean or max"):
        load_encoder(f"hub:{made(name)[0]}").outputs_of_arrays(clips(), [CLIP], pooling="cls")


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_layers_are_those_of_the_blocks_before_the_last_norm(name, made):
    """Catches: hidden states counted from the embedding, or the last one with the norm."""
    folder, _ = made(name)
    encoder = load_encoder(f"hub:{folder}")
    given = clips()
    assert encoder.num_blocks == 2
    # The second block by itself, of what the first has given, is what the encoder calls the last layer.
    first, last = (encoder.outputs_of_arrays(given, [TOKENS], layer=n)[TOKENS] for n in (0, -1))
    out = encoder.outputs_of_arrays(given, [TOKENS])[TOKENS]
    assert np.abs(first - last).max() > 0.01
    norm = {"clip": None, "videomae": None}.get(name, "norm")
    if norm is None:  # no norm behind the tokens
        np.testing.assert_allclose(last, out, **CLOSE)
        return
    norms = [
        m for n, m in encoder.model.named_modules() if n in ("layernorm", "norm", "post_layernorm")
    ]
    assert len(norms) == 1
    np.testing.assert_allclose(norms[0](torch.from_numpy(last)), out, **CLOSE)


def test_a_layer_has_no_common_vector_and_siglips_none_for_a_class(made):
    encoder = load_encoder(f"hub:{made('siglip')[0]}")
    with pytest.raises(ValueError, match=r"layer=0: only the encoder's own output"):
        encoder.outputs_of_arrays(clips(), [COMMON_TEXT], layer=0)
    with pytest.raises(ValueError, match=r"no class token, only a head"):
        encoder.outputs_of_arrays(clips(), [CLIP], layer=0, pooling="cls")


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
@torch.no_grad()
def test_common_vectors_are_image_features_at_length_one(name, made):
    """Catches: the projection left out, means over frames of other lengths, frames of another clip."""
    folder, model = made(name)
    encoder = load_encoder(f"hub:{folder}")
    given = clips()
    found = encoder.outputs_of_arrays(given, [COMMON_TEXT])[COMMON_TEXT]
    outputs = seen(name, model, pixels(encoder, given).flatten(0, 1)).pooler_output
    features = model.visual_projection(outputs) if name == "clip" else outputs
    unit = features / features.norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(found, unit.unflatten(0, (2, 4)).mean(1), **CLOSE)
    assert encoder.output_dim(COMMON_TEXT) == found.shape[1]


def test_a_tower_of_clip_alone_shares_no_space(tmp_path):
    config = transformers.CLIPVisionConfig(**MODELS["clip"][2]["vision_config"])
    transformers.CLIPVisionModel(config).save_pretrained(tmp_path)
    processor_of("clip").save_pretrained(tmp_path)
    assert load_encoder(f"hub:{tmp_path}").output_names == (CLIP, MOMENTS, TOKENS)


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "clip", "siglip", "siglip2", "vit", "ijepa"])
@torch.no_grad()
def test_frames_of_other_sizes_are_seen_as_the_library_sees_them(name, made):
    """Catches: positions that are not interpolated, or height and width in the wrong order."""
    folder, model = made(name)
    encoder = load_encoder(f"hub:{folder}")
    x = torch.randn(2, 3, 1, 24, 40)
    assert encoder.token_grid((1, 24, 40, 3)) == (1, 3, 5)
    found = encoder.outputs(x, [TOKENS])[TOKENS]
    tower = getattr(model, "vision_model", model)
    if name in ("dinov2", "dinov3"):
        expected = tower(pixel_values=x[:, :, 0]).last_hidden_state
    elif name == "siglip2":
        expected = seen(name, model, x[:, :, 0]).last_hidden_state
    else:
        expected = tower(pixel_values=x[:, :, 0], interpolate_pos_encoding=True).last_hidden_state
    np.testing.assert_allclose(found, expected[:, FIRST.get(name, 1) :], **CLOSE)


def test_videomae_takes_one_size(made):
    encoder = load_encoder(f"hub:{made('videomae')[0]}")
    with pytest.raises(ValueError, match=r"takes 32x32"):
        encoder.outputs(torch.zeros(1, 3, 4, 40, 40), [TOKENS])


@torch.no_grad()
def test_vjepa2_knows_the_places_of_frames_of_other_sizes(made, monkeypatch):
    """The library would count them in rows of the trained size without a word.  Squares: as a model that the library
    makes for them with the same weights; others: row, column and moment of each token, as its rotations get them."""
    folder, model = made("vjepa2")
    encoder = load_encoder(f"hub:{folder}")
    settings = MODELS["vjepa2"][2] | {"crop_size": 48}
    other = transformers.VJEPA2Model(transformers.VJEPA2Config(**settings)).eval()
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 4, 48, 48)
    expected = other(x.transpose(1, 2), skip_predictor=True).last_hidden_state
    np.testing.assert_allclose(encoder.outputs(x, [TOKENS])[TOKENS], expected, **CLOSE)
    attention = type(encoder.model.layer[0].attention)
    rotate, places = attention.apply_rotary_embeddings, []

    def spy(self, x, where):
        places.append([part.expand(2, 2, -1)[1, 1] for part in where])
        return rotate(self, x, where)

    monkeypatch.setattr(attention, "apply_rotary_embeddings", spy)
    encoder.outputs(torch.randn(2, 3, 4, 24, 40), [TOKENS])
    assert len(places) == 4  # queries and keys of two blocks
    for found in places:
        t, h, w = np.meshgrid(range(2), range(3), range(5), indexing="ij")
        assert [part.tolist() for part in found] == [a.ravel().tolist() for a in (t, h, w)]
    again = encoder.outputs_of_arrays(clips(), [TOKENS])[TOKENS]  # nothing stays behind
    np.testing.assert_array_equal(
        again, load_encoder(f"hub:{folder}").outputs_of_arrays(clips(), [TOKENS])[TOKENS]
    )


def test_vjepa2_takes_other_lengths_and_videomae_does_not(made):
    assert load_encoder(f"hub:{made('vjepa2')[0]}").token_grid((8, 32, 32, 3)) == (4, 4, 4)
    with pytest.raises(ValueError, match=r"takes 4\. Leave num_frames out"):
        load_encoder(f"hub:{made('videomae')[0]}").token_grid((8, 32, 32, 3))
    with pytest.raises(ValueError, match=r"does not divide into tokens of 2 frames"):
        load_encoder(f"hub:{made('vjepa2')[0]}").token_grid((3, 32, 32, 3))


@pytest.mark.parametrize("shape", [(50, 77), (61, 33), (32, 32), (20, 90)])
@pytest.mark.parametrize("name", PROCESSORS)
@torch.no_grad()
def test_a_video_in_features_out_is_the_librarys_processor_and_model(name, shape, made):
    """From decoded frames to features: size, filter, cut, mean and deviation are those of the processor that the
    library has saved.  Both scale with Pillow, so pixels agree to the last one.  Catches: another filter, an offset of
    the cut by one, a stretched frame that was cut."""
    folder, model = made(name)
    if name == "siglip2":  # which keeps the aspect; of a square it makes what is made here
        shape = (shape[0], shape[0])
    encoder = load_encoder(f"hub:{folder}")
    video = np.random.default_rng(1).integers(0, 256, (4, *shape, 3), dtype=np.uint8)
    given = {"frame_stride": 1, "num_clips": 1, "num_frames": 4}
    found = video_ssl.features_of_video(encoder, video, video_fps=10, **given)
    processed = processor_of(name)(list(video), return_tensors="pt")
    if name == "videomae":
        expected = model.videomae(**processed).last_hidden_state.unflatten(1, (2, 16)).mean(2)[0]
    else:
        tower = getattr(model, "vision_model", model)
        expected = tower(**processed).last_hidden_state[:, FIRST.get(name, 1) :].mean(1)
    np.testing.assert_allclose(found.frames, expected, **CLOSE)


def test_rules_of_processors_that_need_torchvision_are_read_from_their_file(made):
    """V-JEPA 2: the short side 36, the central 32, from the file of its video processor."""
    pre = load_encoder(f"hub:{made('vjepa2')[0]}").preprocess
    assert (pre.size, pre.resize_to, pre.stretch, pre.kernel) == (32, 36, False, "bilinear")
    assert (pre.num_frames, pre.mean) == (4, (0.485, 0.456, 0.406))
    pre = load_encoder(f"hub:{made('dinov3')[0]}").preprocess
    assert (pre.size, pre.resize_to, pre.stretch) == (32, None, True)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("deit", {"size": 40, "crop_size": 32}, None),
        ("dinov2", {"size": 40, "image_processor_type": "ViTImageProcessorFast"}, None),
        ("dinov2", {"size": 40, "image_processor_type": "OthersImageProcessor"}, None),
        ("dinov2", {"size": 40, "image_processor_type": "CLIPFeatureExtractor"}, (32, 40)),
        ("dinov2", {"size": 40, "image_processor_type": None}, (32, 40)),
        ("dinov2", {"size": 256, "crop_size": None}, (224, 256)),
        ("dinov2", {"size": 256, "crop_size": None, "image_processor_type": "Others"}, None),
    ],
)
def test_one_number_as_a_size_is_read_as_the_class_of_the_processor_reads_it(
    name, changes, expected, made, tmp_path
):
    """Was wrong: a size of one number with a center crop was a short side, which it is not to ViT and DeiT: they
    stretch the frame to a square; and a cut without a size was refused where the class has one."""
    changes = {"do_center_crop": True, **changes}
    copy = changed(made(name)[0], tmp_path, "preprocessor_config.json", **changes)
    if expected is None:
        with pytest.raises(EncoderError, match=r"is not known here|a square"):
            load_encoder(f"hub:{copy}")
    else:
        pre = load_encoder(f"hub:{copy}").preprocess
        assert (pre.size, pre.resize_to) == expected


def test_what_classes_of_processors_do_unasked_is_what_the_library_says():
    transformers = library()
    known = {name: getattr(transformers, f"{name}ImageProcessorPil", None) for name in _CLASSES}
    known = {name: cls for name, cls in known.items() if cls is not None}
    assert len(known) > 5
    for name, cls in known.items():
        crop = getattr(cls, "crop_size", None)
        assert _CLASSES[name] == (cls.default_to_square, crop["height"] if crop else None)


def write_mp4(path: Path) -> Path:
    import av

    rng = np.random.default_rng(3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (48, 64, 3), np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_every_frame_with_its_time_on_the_command_line(made, tmp_path):
    """`video-ssl embed hub:FOLDER`, from a folder with spaces and a quote in its name: a feature for each frame of the
    file at the time it is shown, which are those of the frames alone; the licence among the facts of the file."""
    folder, _ = made("dinov2")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\nA model.\n")
    video = write_mp4(tmp_path / "a video.mp4")
    out = tmp_path / "f.arrow"
    options = ["--per-frame", "--frame-stride", "1", "--num-workers", "0"]
    done = CliRunner().invoke(app, ["embed", f"hub:{folder}", str(video), str(out), *options])
    assert done.exit_code == 0, done.output
    features = open_features(out)
    values, times = features.frames_of(features.ids[0])
    assert times.tolist() == pytest.approx([n / 10 for n in range(12)])
    assert features.metadata["encoder"]["source"]["license"] == "apache-2.0"
    encoder = load_encoder(f"hub:{folder}")
    one = encoder(str(video), per_frame=True, frame_stride=1, num_frames=1)
    np.testing.assert_allclose(values, one.frames, **CLOSE)
    (folder / "README.md").unlink()


def test_baselines_beside_a_model(made):
    """Fresh weights that a seed repeats, and pixels of the same clips."""
    folder, _ = made("dinov2")
    own = load_encoder(f"hub:{folder}")
    fresh, again, other = (load_encoder(f"untrained:hub:{folder}{s}") for s in ("", "@0", "@1"))
    assert fresh.fingerprint == again.fingerprint
    assert len({own.fingerprint, fresh.fingerprint, other.fingerprint}) == 3
    assert load_encoder(f"pixels:hub:{folder}@4").preprocess == own.preprocess


# What is refused ---------------------------------------------------------------------------------------


def changed(folder: Path, tmp_path: Path, name: str = "config.json", **changes) -> Path:
    """A copy of a folder whose JSON file says something else; None takes a key out."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = json.loads((copy / name).read_text()) | changes
    (copy / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return copy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auto_map": {"AutoModel": "model.Evil"}}, "asks for code of its own"),
        ({"quantization_config": {"bits": 4}}, "quantised weights"),
        ({"model_type": "resnet"}, "'resnet' of transformers, which is no encoder here: known are"),
        ({"model_type": "dinov2x"}, "Did you mean 'dinov2'"),
        ({"model_type": ["a"]}, "which is no encoder here"),
        ({"model_type": "vit_mae"}, "video-ssl convert"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 must be"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": 64}, "do not belong together"),
        ({"num_hidden_layers": 1}, "not used by the DINOv2"),
        ({"patch_size": 0}, "patch_size"),
        ({"patch_size": 16}, "do not belong together|transformers: |not whole"),
        ({"image_size": 16000, "patch_size": 1}, "tokens"),
        ({"hidden_act": "__import__('os')"}, "no network that can be built|config.json"),
    ],
)
def test_configurations_of_strangers(changes, words, made, tmp_path):
    """Nothing is run, and no memory is taken for what a file only claims."""
    copy = changed(made("dinov2")[0], tmp_path, **changes)
    with pytest.raises(EncoderError, match=words):
        load_encoder(f"hub:{copy}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do_resize": False}, "do_resize=false"),
        ({"do_pad": True}, "do_pad=true"),
        ({"rescale_factor": 1 / 127.5}, "into 0..1 here"),
        ({"do_rescale": False}, "into 0..1 here"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, "std"),
        ({"image_mean": None}, "image_mean=None"),
        ({"resample": 9}, "resample=9"),
        ({"size": None}, "size=None"),
        ({"size": {"height": 32, "width": 40}}, "a square"),
        ({"size": {"shortest_edge": 30}}, "borders would be black"),
        ({"size": {"shortest_edge": 37, "longest_edge": 50}}, "longest_edge"),
        ({"crop_size": {"height": 30, "width": 30}}, "does not divide into tokens"),
        ({"crop_size": {"height": 10**9, "width": 10**9}}, "borders would be black"),
    ],
)
def test_processors_that_do_something_else(changes, words, made, tmp_path):
    copy = changed(made("dinov2")[0], tmp_path, "preprocessor_config.json", **changes)
    with pytest.raises(EncoderError, match=words):
        load_encoder(f"hub:{copy}")


def test_pickled_weights_are_refused_by_name(made, tmp_path):
    """Catches: a pickle that is read because nothing else is there."""
    copy = changed(made("dinov2")[0], tmp_path)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"pytorch_model\.bin only, which can hold code"):
        load_encoder(f"hub:{copy}")
    (copy / "pytorch_model.bin").unlink()
    with pytest.raises(EncoderError, match=r"has no weights: expected model\.safetensors"):
        load_encoder(f"hub:{copy}")


def test_damaged_and_incomplete_folders(made, tmp_path):
    copy = changed(made("dinov2")[0], tmp_path)
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(EncoderError, match="not a complete safetensors file"):
        load_encoder(f"hub:{copy}")
    file.write_bytes(whole)
    state = load_file(file)
    tensors = {k: v for k, v in state.items() if "layer.1.norm1" not in k}
    save_file({**tensors, "more": torch.zeros(10**4)}, file, metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"not whole for DINOv2: 2 missing \(.*norm1"):
        load_encoder(f"hub:{copy}")
    (copy / "config.json").write_text("{")
    with pytest.raises(EncoderError, match="not readable as JSON"):
        load_encoder(f"hub:{copy}")
    (copy / "config.json").write_text("[]")
    with pytest.raises(EncoderError, match="keys and values"):
        load_encoder(f"hub:{copy}")
    (copy / "config.json").unlink()
    with pytest.raises(EncoderError, match="no folder of transformers"):
        load_encoder(f"hub:{copy}")


def test_a_folder_without_a_processor_says_which_file_is_missing(made, tmp_path):
    copy = changed(made("vjepa2")[0], tmp_path)
    (copy / "video_preprocessor_config.json").unlink()
    with pytest.raises(EncoderError, match=r"expected video_preprocessor_config\.json or"):
        load_encoder(f"hub:{copy}")


def test_shards_are_read_together_and_may_not_lie_elsewhere(made, tmp_path):
    """Large models lie in several files; an index that names files above the folder is refused."""
    folder, model = made("dinov2")
    copy = changed(folder, tmp_path)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="20KB")
    assert len(list(copy.glob("*.safetensors"))) > 1
    assert load_encoder(f"hub:{copy}").fingerprint == load_encoder(f"hub:{folder}").fingerprint
    index = copy / "model.safetensors.index.json"
    first, *_ = sorted(copy.glob("*.safetensors"))
    first.unlink()
    with pytest.raises(EncoderError, match=f"lacks {first.name}"):
        load_encoder(f"hub:{copy}")
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(EncoderError, match="names no files beside it"):
        load_encoder(f"hub:{copy}")


def test_a_kernel_named_in_a_configuration_is_not_fetched(made, tmp_path):
    """The library fetches and runs code that `_attn_implementation` names; catches a setting that is passed on."""
    kernel = {"_attn_implementation": "evil/kernel", "attn_implementation": "evil/kernel"}
    copy = changed(made("dinov2")[0], tmp_path, **kernel)
    found = load_encoder(f"hub:{copy}")
    assert found.model.config._attn_implementation == "sdpa"
    assert found.fingerprint == load_encoder(f"hub:{made('dinov2')[0]}").fingerprint


def test_a_folder_needs_no_network(made, monkeypatch):
    """Catches a question to the hub where everything is at hand."""

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert load_encoder(f"hub:{made('clip')[0]}").embed_dim == 32


def test_a_name_is_fetched_without_code_and_pickles(made, monkeypatch):
    import huggingface_hub

    folder, _ = made("dinov2")
    asked = {}

    def fetch(name, **options):
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    found = load_encoder("hub:facebook/dinov2-tiny@main")
    assert (asked["name"], asked["revision"]) == ("facebook/dinov2-tiny", "main")
    assert not any("py" in p or "bin" in p or p == "*" for p in asked["allow_patterns"])
    assert found.source["hub"] == "facebook/dinov2-tiny@main"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("", "names no model"),
        ("./nowhere", "no such folder, and it is no name"),
        ("a/b/c", "no such folder, and it is no name"),
        ("facebook/nothing", "cannot be fetched"),
    ],
)
def test_names_that_lead_nowhere(named, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(EncoderError, match=words):
        load_encoder(f"hub:{named}")


def test_without_the_library_the_extra_is_named(made, monkeypatch):
    import sys

    folder, _ = made("dinov2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    done = CliRunner().invoke(app, ["embed", f"hub:{folder}", "x.mp4", "y.arrow"])
    assert done.exit_code != 0
    assert "video_ssl[hub]" in str(done.exception) + done.output


def test_jax_does_not_compute_them(made, tmp_path):
    from video_ssl.embed.open_encoder import open_encoder

    with pytest.raises(EncoderError, match="leave out 'flax:'"):
        open_encoder(f"flax:hub:{made('dinov2')[0]}")
