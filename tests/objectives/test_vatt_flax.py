"""VATT: its losses at their edges and over devices, what a step sees, and what leaves the training.

The numbers of the reference are in tests/golden/test_vatt.py.
"""

import functools
import logging
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from video_ssl.clips.color_changes import NUM_PARAMETERS, changes_of, sample_color
from video_ssl.models.color_changes_flax import apply_color
from video_ssl.models.encoders import build_encoder
from video_ssl.models.networks.vatt_bridge import to_torch_state
from video_ssl.objectives.vatt.config import Config
from video_ssl.objectives.vatt.loss_config import LossConfig
from video_ssl.objectives.vatt.loss_flax import found_share, pair_losses, total_loss
from video_ssl.objectives.vatt.model_flax import drawn_tokens
from video_ssl.objectives.vatt.objective_flax import Objective, without_nan_gradients
from video_ssl.objectives.vatt.word_vectors import read_word_vectors
from video_ssl.recipes import build_config

SIZES = {
    "preset": None,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "ffn_dim": 24,
    "dropout": 0.0,
}
SAMPLE = {
    "num_frames": 8,
    "crop": {"size": 32, "flip_probability": 0.5},
    "color": None,
    "rate": 160,
    "num_samples": 70,
    "num_captions": 3,
    "num_words": 6,
    "words": ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(16))],
    "heads": {"sound_dim": 12, "text_dim": 10},
}
SPECIFIC = {
    **SAMPLE,
    "video": {**SIZES, "patch_size": 8},
    "audio": {**SIZES, "patch_samples": 8},
    "text": {**SIZES, "word_dim": 5},
}
SHARED = {
    **SAMPLE,
    "shared": {**SIZES, "patch_size": 8, "patch_samples": 8, "word_dim": 5, "projection_dim": 14},
}


def config(kind=SPECIFIC, **changes):
    return build_config(Config, {**kind, **changes})


def raw(batch=4, seed=0):
    """A batch of pixels, sounds and words; the last video has no sound, the first no words."""
    rng = np.random.default_rng(seed)
    words = rng.integers(1, 20, (batch, 3, 6)).astype(np.int32)
    words[:, :, 4:] = 0
    found = {
        "video": rng.integers(0, 256, (batch, 8, 32, 32, 3), np.uint8),
        "sound": rng.uniform(-1, 1, (batch, 70)).astype(np.float32),
        "has_sound": np.arange(batch) < batch - 1,
        "words": words,
        "has_words": np.arange(batch) > 0,
    }
    found["sound"][~found["has_sound"]] = 0
    found["words"][~found["has_words"]] = 0
    return found


@functools.cache
def made(kind="specific", drop_token=0.5):
    """A compiled step and fresh variables."""
    objective = Objective(config(SHARED if kind == "shared" else SPECIFIC, drop_token=drop_token))
    return step_of(objective), objective.init(0)


def step_of(objective):
    """(variables, batch, key) -> gradients, (output, changed); jitted."""

    def loss(params, rest, batch, key):
        output, changed = objective.forward({**rest, "params": params}, batch, key)
        return output.loss, (output, changed)

    step = jax.jit(jax.grad(loss, has_aux=True))

    def run(variables, batch, seed=0):
        rest = {k: v for k, v in variables.items() if k != "params"}
        return step(variables["params"], rest, batch, jax.random.key(seed))

    return run


def embeddings(batch=8, candidates=3, width=6, seed=0):
    rng = np.random.default_rng(seed)
    video = rng.standard_normal((batch, width)).astype(np.float32)
    other = rng.standard_normal((batch, candidates, width)).astype(np.float32)
    return video, other, rng.random(batch) < 0.7


# Losses -------------------------------------------------------------------------------------------


def by_hand(video, other, mask, *, twice, temperature=0.07):
    """The asymmetric loss of every video, with sums written out."""
    v = video / np.linalg.norm(video, axis=-1, keepdims=True)
    o = other / np.linalg.norm(other, axis=-1, keepdims=True)
    losses = []
    for i in range(len(v)):
        own = [np.exp(v[i] @ x / temperature) for x in o[i]]
        all_i = list(own) if twice else []
        for j in range(len(v)):
            all_i += [np.exp(v[i] @ x / temperature) for x in o[j] if mask[j]]
            all_i += [np.exp(v[j] @ x / temperature) for x in o[i] if j != i]
        losses.append(np.log(np.sum(all_i)) - np.log(np.sum(own)))
    return np.array(losses)


@pytest.mark.parametrize("twice", [True, False])
def test_the_loss_is_that_of_the_formula(twice):
    video, other, mask = embeddings()
    found = pair_losses(video, other, mask, LossConfig(positives_twice=twice))
    wanted = by_hand(np.float64(video), np.float64(other), mask, twice=twice)[mask].mean()
    assert float(found[0]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("twice", "least"), [(True, np.log(2)), (False, 0.0)])
def test_the_least_loss(twice, least):
    """Every video finds its own, and nothing else is like it."""
    video = np.eye(6, dtype=np.float32)
    every = jnp.ones(6, bool)
    found = pair_losses(video, video[:, None], every, LossConfig(positives_twice=twice))
    assert float(found[0]) == pytest.approx(least, abs=1e-4)
    assert float(found_share(video, video[:, None], every)) == 1
    moved = np.roll(video, 1, axis=0)
    assert float(found_share(moved, video[:, None], every)) == 0


@pytest.mark.parametrize("kind", ["asymmetric", "symmetric"])
def test_what_is_missing_is_no_candidate(kind):
    video, other, mask = embeddings()
    settings = LossConfig(kind=kind)
    changed = np.where(mask[:, None, None], other, 7.0).astype(np.float32)
    one, two = (float(pair_losses(video, x, mask, settings)[0]) for x in (other, changed))
    assert one == pytest.approx(two, abs=1e-6)


@pytest.mark.parametrize("kind", ["asymmetric", "symmetric"])
def test_a_modality_that_is_nowhere_has_no_loss_and_no_gradient(kind):
    video, other, mask = embeddings()
    settings = LossConfig(kind=kind)

    def loss(video, other):
        return pair_losses(video, other, np.zeros_like(mask), settings).mean()

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(video, other)
    assert float(value) == 0
    assert not any(np.any(g) for g in gradients)


def test_captions_that_are_padding_may_be_left_out():
    video, other, _ = embeddings()
    there = np.random.default_rng(1).random(other.shape[:2]) < 0.6
    there[:, 0] = True
    every = np.ones(len(video), bool)
    changed = np.where(there[..., None], other, 7.0).astype(np.float32)
    one, two = (
        float(pair_losses(video, x, every, LossConfig(), there)[0]) for x in (other, changed)
    )
    assert one == pytest.approx(two, abs=1e-6)
    assert one != pytest.approx(float(pair_losses(video, other, every, LossConfig())[0]), rel=1e-3)


def test_replicas_average_over_their_own_videos():
    video, other, _ = embeddings()
    mask = np.array([1, 0, 0, 0, 1, 1, 1, 1], bool)
    each = pair_losses(video, other, mask, LossConfig(replicas=2))
    terms = by_hand(np.float64(video), np.float64(other), mask, twice=True)
    np.testing.assert_allclose(each, [terms[0], terms[4:].mean()], rtol=1e-5)
    one = float(pair_losses(video, other, mask, LossConfig())[0])
    assert one != pytest.approx(float(each.mean()), rel=1e-3)
    with pytest.raises(ValueError, match="replicas=3 does not divide the 8 videos"):
        pair_losses(video, other, mask, LossConfig(replicas=3))


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_batch_over_devices_has_the_loss_of_the_whole_batch(count):
    """The whole objective: batch norms and negatives see all devices."""
    devices = jax.devices()[:count]
    if len(devices) < count:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    rows, whole = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in (("data",), ())
    )
    run, variables = made()
    batch = raw(8)
    gradients, (output, changed) = run(variables, batch)
    many = run(jax.device_put(variables, whole), jax.device_put(batch, rows))
    assert float(many[1][0].loss) == pytest.approx(float(output.loss), rel=1e-5)
    for one, two in ((gradients, many[0]), (changed, many[1][1])):
        # Gradients of up to 1.4: sums over eight devices round otherwise, up to 3.8e-4 on some processors.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=6e-4, rtol=1e-3), one, two)


# A step -------------------------------------------------------------------------------------------


def slow_pair(video, other, mask, t=0.07):
    """MIL-NCE of one pair of modalities, video by video, straight from the formula."""
    v = video / jnp.linalg.norm(video, axis=-1, keepdims=True)
    o = other / jnp.linalg.norm(other, axis=-1, keepdims=True)
    losses = []
    for i in np.flatnonzero(mask):
        own = jnp.exp(o[i] @ v[i] / t)
        to_others = sum(jnp.exp(o[j] @ v[i] / t).sum() for j in np.flatnonzero(mask))
        of_videos = sum(jnp.exp(o[i] @ v[j] / t).sum() for j in range(len(v)))
        losses.append(-jnp.log(own.sum() / (to_others + of_videos)))
    return sum(losses) / len(losses)


@pytest.mark.slow
def test_loss_and_gradients_of_raw_batches_are_those_of_a_slow_version():
    settings = config(drop_token=0.0, color={"law": "vatt"}, loss={"sound_weight": 2.0})
    objective, batch = Objective(settings), raw()
    rng = np.random.default_rng(0)
    batch["color"] = np.stack([sample_color(settings.color, rng) for _ in range(4)])
    variables = jax.tree.map(
        lambda x: np.float32(0.3 * rng.standard_normal(x.shape)),
        jax.eval_shape(lambda: objective.init(0)),
    )
    params = variables.pop("params")
    clips = [
        apply_color(video[None] / 255.0, changes_of(color[None]), "vatt")[0] * 2 - 1
        for video, color in zip(batch["video"], batch["color"], strict=True)
    ]

    def found(params):
        return objective.forward({"params": params, **variables}, batch, jax.random.key(0))[0].loss

    def wanted(params):
        out, _ = objective.model.apply(
            {"params": params, **variables}, jnp.stack(clips), batch["sound"], batch["words"],
            train=True, mutable=["batch_stats"],
        )  # fmt: skip
        video, texts = out["video"], out["text"]["common_text"].reshape(4, 3, -1)
        sounds = out["sound"]["common_sound"][:, None]
        heard = slow_pair(video["common_sound"], sounds, batch["has_sound"])
        read = slow_pair(video["common_text"], texts, batch["has_words"])
        return (2 * heard + read) / 3

    loss, gradients = jax.jit(jax.value_and_grad(found))(params)
    expected, slow = jax.jit(jax.value_and_grad(wanted))(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(slow))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * scale), gradients, slow
    )


@pytest.mark.parametrize("kind", ["specific", "shared"])
def test_every_trained_weight_has_a_gradient(kind):
    run, variables = made(kind)
    gradients, (output, changed) = run(variables, raw())
    assert np.isfinite(float(output.loss))
    still = [
        jax.tree_util.keystr(path)
        for path, value in jax.tree_util.tree_flatten_with_path(gradients)[0]
        if not np.any(value)
    ]
    assert not still
    assert set(changed) == {"batch_stats"}


def test_the_figures_say_what_there_was_and_the_loss_is_made_of_them():
    run, variables = made()
    output = run(variables, raw())[1][0]
    figures = {name: float(value) for name, value in output.figures.items()}
    assert figures["has_sound"] == figures["has_words"] == 0.75
    wanted = (figures["video_sound"] + figures["video_text"]) / 2
    assert float(output.loss) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("combine", "wanted"), [("average", 1.25), ("sum", 5.0)])
def test_losses_are_averaged_or_added_by_their_weights(combine, wanted):
    settings = LossConfig(sound_weight=3.0, text_weight=1.0, combine=combine)
    assert total_loss(jnp.float32(1), jnp.float32(2), settings) == wanted


@pytest.mark.parametrize(("name", "encoder"), [("sound", "sound"), ("words", "text")])
def test_a_batch_without_one_modality_trains_the_others(name, encoder):
    run, variables = made()
    batch = raw()
    batch[name] = np.zeros_like(batch[name])
    batch[f"has_{name}"] = np.zeros(4, bool)
    gradients, (output, _) = run(variables, batch)
    assert float(output.figures[f"has_{name}"]) == 0
    assert float(output.figures[f"video_{encoder}"]) == 0
    assert not any(np.any(x) for x in jax.tree.leaves(gradients[encoder]))
    assert any(np.any(x) for x in jax.tree.leaves(gradients["video"]))
    assert float(output.loss) > 0.3


def test_only_the_mask_says_what_is_there():
    """Sound without its mask is not heard; silence with it is."""
    run, variables = made(drop_token=0.0)
    batch = raw()
    one = run(variables, batch)[1][0]
    noise = {**batch, "sound": batch["sound"].copy()}
    noise["sound"][-1] = 0.5
    assert float(run(variables, noise)[1][0].loss) == pytest.approx(float(one.loss), rel=1e-6)
    silence = {**batch, "has_sound": np.ones(4, bool)}
    assert float(run(variables, silence)[1][0].loss) != pytest.approx(float(one.loss), rel=1e-4)


def test_tokens_are_dropped_anew_in_every_step_for_all_samples_of_a_replica():
    keys = [jax.random.key(i) for i in range(2)]
    first, second = (
        np.asarray(drawn_tokens(key, num_tokens=10, num_kept=4, replicas=3)) for key in keys
    )
    assert first.shape == (3, 4)
    assert all(len(set(row)) == 4 and set(row) <= set(range(10)) for row in first.tolist())
    assert len({tuple(row) for row in first.tolist()}) == 3
    assert not np.array_equal(first, second)
    assert drawn_tokens(keys[0], num_tokens=10, num_kept=10, replicas=3) is None


def test_half_of_the_tokens_is_dropped_rounded_down():
    found = config(drop_token=0.75)
    assert found.num_tokens() == {"video": 32, "sound": 8}
    assert found.num_kept() == {"video": 8, "sound": 2}


def test_a_step_without_dropped_tokens_does_not_depend_on_its_key():
    for drop, same in ((0.0, True), (0.5, False)):
        run, variables = made(drop_token=drop)
        one, two = (float(run(variables, raw(), seed)[1][0].loss) for seed in (0, 1))
        assert (one == two) == same


def test_colors_change_where_the_settings_say_so():
    objective = Objective(config(color={"law": "vatt"}, drop_token=0.0))
    batch = raw()
    batch["color"] = np.zeros((4, NUM_PARAMETERS), np.float32)
    run, variables = step_of(objective), objective.init(0)
    changed = {**batch, "color": np.full((4, NUM_PARAMETERS), 0.4, np.float32)}
    assert float(run(variables, batch)[1][0].loss) != float(run(variables, changed)[1][0].loss)


def test_frozen_words_are_no_parameters():
    variables = Objective(config()).init(0)
    assert variables["frozen"]["text"]["words"]["frozen_table"].shape == (20, 5)
    assert "words" not in variables["params"]["text"]
    trained = Objective(config(text={**SIZES, "word_dim": 5, "freeze_words": False})).init(0)
    assert "frozen" not in trained
    assert trained["params"]["text"]["words"]["table"].shape == (20, 5)


def written_vectors(folder, kind):
    vectors = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    if kind == "npy":
        np.save(folder / "vectors.npy", vectors)
        return vectors, folder / "vectors.npy"
    file = folder / "word2vec.pkl"
    file.write_bytes(pickle.dumps({"word_embeddings": vectors}))
    return vectors, file


@pytest.mark.parametrize("kind", ["npy", "pkl"])
@pytest.mark.parametrize("is_frozen", [True, False])
def test_vectors_of_words_come_from_their_file(kind, is_frozen, tmp_path):
    vectors, file = written_vectors(tmp_path, kind)
    text = {**SIZES, "word_dim": 5, "freeze_words": is_frozen}
    variables = Objective(config(text=text, word_vectors=str(file))).init(0)
    place = variables["frozen" if is_frozen else "params"]["text"]["words"]
    np.testing.assert_array_equal(place["frozen_table" if is_frozen else "table"], vectors)
    assert jax.tree.structure(variables) == jax.tree.structure(
        jax.eval_shape(lambda: Objective(config(text=text)).init(0))
    )


class Harm:
    """What a pickle of a stranger may hold."""

    def __reduce__(self):
        return (print, ("this was run",))


def test_vectors_that_do_not_fit_are_refused(tmp_path, capsys):
    _, file = written_vectors(tmp_path, "npy")
    with pytest.raises(ValueError, match=r"holds float32 \(20, 5\), but .* need float \(21, 5\)"):
        read_word_vectors(file, (21, 5))
    with pytest.raises(ValueError, match="there is no such file"):
        read_word_vectors(tmp_path / "missing.npy", (20, 5))
    other = tmp_path / "other.pkl"
    other.write_bytes(pickle.dumps({"vectors": [1.0]}))
    with pytest.raises(ValueError, match=r"has no key 'word_embeddings', only .'vectors'"):
        read_word_vectors(other, (20, 5))
    other.write_bytes(pickle.dumps({"word_embeddings": Harm()}))
    with pytest.raises(ValueError, match="it is refused, nothing of it was run"):
        read_word_vectors(other, (20, 5))
    assert not capsys.readouterr().out
    np.save(file, np.full((20, 5), np.nan, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        read_word_vectors(file, (20, 5))


def test_gradients_that_are_nan_become_zero_only_where_that_is_asked_for():
    def slope(clean):
        def loss(x):
            x = without_nan_gradients(x) if clean else x
            return jnp.where(x["a"] > 0, jnp.sqrt(x["a"] - 1), 0.0).sum()

        return np.asarray(jax.grad(loss)({"a": jnp.array([-3.0, 5.0])})["a"])

    assert np.isnan(slope(clean=False)).tolist() == [True, False]
    np.testing.assert_allclose(slope(clean=True), [0.0, 0.25])


def test_a_batch_of_one_video_is_told(caplog):
    objective = Objective(config())
    variables = jax.eval_shape(lambda: objective.init(0))
    with caplog.at_level(logging.WARNING):
        jax.eval_shape(objective.forward, variables, raw(1), jax.random.key(0))
    assert "a batch of one video has no others to be told from" in caplog.text


@pytest.mark.parametrize("drop_token", [0.0, 0.5])
def test_replicas_that_do_not_divide_the_batch_are_refused(drop_token):
    """With tokens dropped the first to notice was a reshape inside jax, with a TypeError that named neither number."""
    objective = Objective(config(drop_token=drop_token, loss={"replicas": 3}))
    variables = jax.eval_shape(lambda: objective.init(0))
    with pytest.raises(ValueError, match=r"loss\.replicas=3 does not divide the 4 videos"):
        jax.eval_shape(objective.forward, variables, raw(4), jax.random.key(0))


# What leaves the training -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SPECIFIC, SHARED], ids=["specific", "shared"])
def test_three_encoders_leave_the_training_for_flax_and_torch(kind):
    objective = Objective(config(kind))
    encoders = objective.encoders()
    assert list(encoders) == ["video", "sound", "text"]
    assert [e.preprocess.modality for e in encoders.values()] == list(encoders)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: np.float32(x + 0.2 * rng.random(x.shape)), objective.init(0))
    batch = raw()
    video = batch["video"].astype(np.float32) / 127.5 - 1
    joint = objective.model.apply(variables, video, batch["sound"], batch["words"])
    inputs = {"video": video, "sound": batch["sound"], "text": batch["words"].reshape(-1, 6)}
    for name, (module, pick, _) in encoders.items():
        own = pick(variables)
        assert jax.tree.structure(own) == jax.tree.structure(
            dict(jax.eval_shape(module.init, jax.random.key(0), module.smallest_input()))
        )
        alone = module.apply(own, inputs[name])
        twin = build_encoder(module.config).eval()
        state = to_torch_state(own)
        twin.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
        given = torch.from_numpy(inputs[name])
        given = given.permute(0, 4, 1, 2, 3) if name == "video" else given
        with torch.no_grad():
            same = twin.outputs(given.long() if name == "text" else given, twin.output_names)
        assert {"common_sound", "common_text"} & set(joint[name])
        for output, value in joint[name].items():
            np.testing.assert_allclose(alone[output], value, atol=1e-5, err_msg=output)
            np.testing.assert_allclose(same[output], value, rtol=1e-4, atol=2e-5)


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        (SPECIFIC, {"drop_token": 1.0}, r"drop_token=1.0 must lie in \[0, 1\)"),
        (SPECIFIC, {"drop_token": 0.95}, "leaves none of the tokens of sound"),
        (SHARED, {"video": {"preset": "S"}}, "shared stands in place of .* but video is set too"),
        (SPECIFIC, {"audio": {"num_samples": 5000}}, "audio.num_samples=5000, but num_samples=70"),
        (SPECIFIC, {"video": {"num_frames": 16}}, "encoder.num_frames=16, but clip.num_frames=8"),
        (SPECIFIC, {"text": {"heads": {}}}, "text.heads is set by heads"),
        (SPECIFIC, {"loss": {"temperature": 0}}, "temperature=0.0 must be positive"),
        (SPECIFIC, {"loss": {"replicas": 0}}, "replicas=0 must be at least 1"),
        (SPECIFIC, {"loss": {"sound_weight": 0, "text_weight": 0}}, "one of them must be positive"),
        (SPECIFIC, {"loss": {"kind": "symmetric", "positives_twice": False}}, "positives_twice"),
        (SPECIFIC, {"num_samples": 7}, "num_samples=7 is less than one token of patch_samples=8"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind, changes, text):
    with pytest.raises(ValueError, match=text):
        config(kind, **changes)


def test_a_vocabulary_of_another_size_is_refused():
    settings = config(text={**SIZES, "vocab_size": 21})
    with pytest.raises(ValueError, match=r"text.vocab_size=21, but the vocabulary has 20 places"):
        Objective(settings)
