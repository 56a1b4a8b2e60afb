"""VATT against the numbers of its reference: losses, tokens, both families of models, rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_ssl.models.exchange.published_model import Source
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.exchange.vatt_weights import read
from video_ssl.models.networks import vatt_layers_flax as layers
from video_ssl.models.networks.vatt_bridge import (
    SUFFIX,
    from_kernel,
    from_tf,
    names_of_tf,
    to_flax_variables,
    to_torch_state,
)
from video_ssl.models.networks.vatt_config import (
    VattAudioConfig,
    VattHeadsConfig,
    VattTextConfig,
    VattVideoConfig,
    VattWordsConfig,
)
from video_ssl.models.networks.vatt_flax import (
    PatchEmbed,
    VattAudio,
    VattText,
    VattVideo,
    VattWords,
    cut,
)
from video_ssl.models.networks.vatt_tables import spline_matrix
from video_ssl.models.weights import WeightsError
from video_ssl.objectives.vatt.loss_config import LossConfig
from video_ssl.objectives.vatt.loss_flax import pair_losses, total_loss
from video_ssl.pretrain.schedules import SCHEDULES


@pytest.mark.golden("vatt/misc", cases=lambda settings: "peak" in settings)
def test_learning_rates(golden_case):
    settings = golden_case.settings
    rates = SCHEDULES["cosine_once"].rates(
        settings["total_steps"],
        base_lr=settings["peak"],
        min_lr=settings["end"],
        warmup_lr=0.0,
        warmup_steps=settings["warmup_steps"],
        steps_per_epoch=1.0,
    )
    # The reference is asked for its end too, which no step has.
    golden_case.check("lr", np.append(rates, settings["end"])[golden_case["step"]])


# Losses -------------------------------------------------------------------------------------------


@pytest.mark.golden("vatt/losses")
@pytest.mark.parametrize(("kind", "short"), [("asymmetric", "asym"), ("symmetric", "sym")])
def test_losses_and_their_gradients(golden_case, kind, short):
    settings = golden_case.settings
    config = LossConfig(
        kind=kind, temperature=settings["temperature"], replicas=settings["num_replicas"]
    )
    video, other = golden_case["video"], golden_case["other"]
    mask = golden_case["mask"] > 0 if settings["masked"] else np.ones(len(video), bool)

    def mean(video, other):
        each = pair_losses(video, other, jnp.asarray(mask), config)
        return each.mean(), each

    (loss, each), gradients = jax.jit(jax.value_and_grad(mean, argnums=(0, 1), has_aux=True))(
        video, other
    )
    golden_case.check(f"{short}_per_replica", each)
    golden_case.check(short, loss)
    golden_case.check(f"{short}_f64", loss)
    golden_case.check(f"{short}_grad_video", gradients[0])
    golden_case.check(f"{short}_grad_other", gradients[1])


# Tokens and positions -----------------------------------------------------------------------------


@pytest.mark.golden("vatt/tokens")
def test_tokens_of_video_and_sound(golden):
    assert golden.settings["padding"] == "VALID"
    kernel, bias = golden["video_kernel"], golden["video_bias"]
    tubelet, patch, _ = golden.settings["video_patch"]
    cubes = cut(jnp.asarray(golden["video"]), tubelet, patch)
    embed = PatchEmbed(kernel.shape[:-1], kernel.shape[-1])
    golden.check("video_tokens", embed.apply({"params": {"kernel": kernel, "bias": bias}}, cubes))
    size, sound = golden.settings["audio_patch"], golden["audio"][..., 0]
    kernel, count = golden["audio_kernel"], sound.shape[1] // size
    pieces = sound[:, : count * size].reshape(len(sound), count, size)
    embed = PatchEmbed(kernel.shape[:-1], kernel.shape[-1])
    weights = {"kernel": kernel, "bias": golden[golden.settings["audio_bias"]]}
    golden.check("audio_tokens", embed.apply({"params": weights}, pieces))


@pytest.mark.golden("vatt/tokens")
def test_position_tables_and_their_spline(golden):
    for case, settings in golden.cases.items():
        matrix = spline_matrix(settings["from"], settings["to"])
        golden.check(f"interp/{case}/out_f64", matrix @ golden[f"interp/{case}/in"])
    tables = {
        axis: golden[f"pos/{axis}_position_embeddings/embeddings"]
        for axis in ("temporal", "vertical", "horizontal")
    }
    norm = {"scale": golden["pos/layernorm/gamma"], "bias": golden["pos/layernorm/beta"]}
    pos = golden.settings["pos"]
    assert pos["ln_eps"] == layers.LAYER_NORM_EPS
    module = layers.Positions(tuple(pos["grid"]), norm["bias"].size)
    for name, grid in (("out", pos["grid"]), ("out_target_f64", pos["target_grid"])):
        golden.check(f"pos/{name}", module.apply({"params": {**tables, "norm": norm}}, tuple(grid)))


# Models -------------------------------------------------------------------------------------------


def sizes(settings):
    return {
        "preset": None,
        "embed_dim": settings["d_model"],
        "depth": settings["num_layers"],
        "ffn_dim": settings["d_ff"],
        "num_heads": settings["num_heads"],
        "dropout": 0.0,
    }


def encoders_of(golden):
    """name -> flax module, with the variables of the file."""
    settings = golden.settings
    assert settings["activation"] == "gelu_erf"
    heads = VattHeadsConfig(sound_dim=settings["d_va"], text_dim=settings["d_vt"])
    video, audio, text = (settings[name] for name in ("video", "audio", "text"))
    shared = settings.get("transformer")
    more = {"heads": heads, "projection_dim": shared["d_post"] if shared else None}
    tubelet, patch = video["temporal_patch_size"], video["spatial_patch_size"]
    frames, side, _ = video["buckets"]
    words = {"vocab_size": text["vocab_size"], "word_dim": text["d_embedding"], "heads": heads}
    configs = (
        VattVideoConfig(
            tubelet_size=tubelet, patch_size=patch, num_frames=frames * tubelet,
            image_size=side * patch, **sizes(shared or video), **more,
        ),
        VattAudioConfig(
            patch_samples=audio["patch"], num_samples=audio["buckets"] * audio["patch"],
            **sizes(shared or audio), **more,
        ),
    )  # fmt: skip
    if shared:
        projected = {"projection_dim": shared["d_post"]}
        last = VattWords(
            VattWordsConfig(num_words=text["buckets"], **sizes(shared), **words, **projected)
        )
    else:
        buckets = {
            "num_buckets": text["num_relative_buckets"],
            "max_distance": text["max_relative_distance"],
        }
        last = VattText(VattTextConfig(**sizes(text), **words, **buckets))
    states, unused = from_tf(golden.below("param/"))
    assert not unused
    modules = {"video": VattVideo(configs[0]), "sound": VattAudio(configs[1]), "text": last}
    return {name: (modules[name], to_flax_variables(states[name])) for name in modules}


INPUTS = {"video": "in/video", "sound": "in/audio", "text": "in/text_ids"}
THEIRS = {"video": "video", "sound": "audio", "text": "text"}
SPACES = {
    "z_v_va": ("video", "common_sound"),
    "z_v_vt": ("video", "common_text"),
    "z_a_va": ("sound", "common_sound"),
    "z_t_vt": ("text", "common_text"),
}


def input_of(golden, name):
    array = golden[INPUTS[name]]
    return jnp.asarray(array[..., 0] if name == "sound" else array)


@pytest.mark.golden("vatt/model_specific", "vatt/model_unified")
def test_features_and_embeddings(golden):
    found = {
        name: module.apply(variables, input_of(golden, name))
        for name, (module, variables) in encoders_of(golden).items()
    }
    for name, theirs in THEIRS.items():
        golden.check(f"eval/{theirs}_features_pooled", found[name]["clip"])
        tokens = np.asarray(found[name]["tokens"])
        name = f"eval/{theirs}_features"
        golden.check(name, tokens.reshape(golden[name].shape))
    for space, (name, output) in SPACES.items():
        golden.check(f"eval/{space}", found[name][output])


@pytest.mark.golden("vatt/model_specific")
def test_a_step_of_training_its_losses_gradients_and_statistics(golden):
    settings = golden.settings
    assert (settings["train"]["dropout"], settings["loss"]["combine"]) == (0.0, "mean")
    weights = settings["loss"]["weights"]
    config = LossConfig(
        kind=settings["loss"]["kind"],
        temperature=settings["temperature"],
        sound_weight=weights["va"],
        text_weight=weights["vt"],
    )
    encoders = encoders_of(golden)
    keep = {"video": golden["train/keep_video"][None], "sound": golden["train/keep_audio"][None]}
    has_sound, has_words = golden["train/audio_mask"] > 0, golden["train/text_mask"] > 0

    def total(params):
        out, changed = {}, {}
        for name, (module, variables) in encoders.items():
            variables = {**variables, "params": params[name]}
            options = {"keep": jnp.asarray(keep[name])} if name in keep else {}
            out[name], changed[name] = module.apply(
                variables, input_of(golden, name), train=True, mutable=["batch_stats"], **options
            )
        spaces = {z: out[name][output] for z, (name, output) in SPACES.items()}
        text = spaces["z_t_vt"].reshape(settings["batch"], settings["captions"], -1)
        loss_va = pair_losses(
            spaces["z_v_va"], spaces["z_a_va"][:, None], jnp.asarray(has_sound), config
        )
        loss_vt = pair_losses(spaces["z_v_vt"], text, jnp.asarray(has_words), config)
        losses = {"loss_va": loss_va.mean(), "loss_vt": loss_vt.mean()}
        loss = total_loss(losses["loss_va"], losses["loss_vt"], config)
        return loss, ({**losses, "loss_total": loss}, spaces, out, changed)

    params = {name: variables["params"] for name, (_, variables) in encoders.items()}
    (_, (losses, spaces, out, changed)), gradients = jax.jit(
        jax.value_and_grad(total, has_aux=True)
    )(params)
    golden.check_all({f"train/{name}": value for name, value in {**losses, **spaces}.items()})
    for name in ("video", "sound"):
        golden.check(f"train/{THEIRS[name]}_features_pooled", out[name]["clip"])
        golden.check(f"train/{THEIRS[name]}_features", out[name]["tokens"])
    norm = np.sqrt(sum(np.square(np.float64(x)).sum() for x in jax.tree.leaves(gradients)))
    golden.check("train/grad_global_norm", norm)
    statistics = {name: to_torch_state(tree) for name, tree in changed.items()}
    slopes = {name: to_torch_state({"params": tree}) for name, tree in gradients.items()}
    for prefix, states in (("train/after/", statistics), ("grad/", slopes)):
        for key in golden.given_below(prefix):
            ((encoder, ours),) = names_of_tf(key)
            theirs = golden[prefix + key]
            is_kernel = ours.endswith("weight") and theirs.ndim > 1
            value = states[encoder][ours]
            # turned back, so that the array is the file's
            if is_kernel:
                assert value.shape == from_kernel(theirs).shape
                value = value.transpose(*range(2, value.ndim), 1, 0)
            golden.check(prefix + key, value)


# Checkpoints --------------------------------------------------------------------------------------


def written(golden, folder):
    for array, name in golden.settings["file_names"].items():
        (folder / name).write_bytes(golden[array].tobytes())
    return next(folder.glob("*.index"))


@pytest.mark.golden("vatt/tf_checkpoint")
@pytest.mark.parametrize("name", ["video", "sound"])
def test_a_checkpoint_of_the_reference_becomes_an_encoder(golden, name, tmp_path):
    """Every variable of the encoder has its place, and is the file's."""
    index = written(golden, tmp_path)
    model = read(Source(index), family=f"vatt_{name}", sizes=Sizes(), num_heads=1, min_share=1.0)
    assert model.report.share == 1
    assert not model.report.unused
    state, seen = model.encoder.state_dict(), set()
    for key, value in golden.below("var/").items():
        for encoder, place in names_of_tf(key.removesuffix(SUFFIX)):
            if encoder == name and "OPTIMIZER_SLOT" not in key:
                is_kernel = place.endswith("weight") and value.ndim > 1
                np.testing.assert_array_equal(
                    state[place], from_kernel(value) if is_kernel else value
                )
                seen.add(place)
    assert seen == {key for key in state if not key.endswith("num_batches_tracked")}


@pytest.mark.golden("vatt/tf_checkpoint")
def test_the_shard_of_another_checkpoint_is_told(golden, tmp_path):
    index = written(golden, tmp_path)
    shard = next(tmp_path.glob("*.data-*"))
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(WeightsError, match="belongs to another checkpoint than the index"):
        read(Source(index), family="vatt_video", sizes=Sizes(), num_heads=1, min_share=1.0)
