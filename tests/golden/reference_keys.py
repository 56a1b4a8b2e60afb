"""Keys of the reference codes' checkpoints -> keys of our modules; tables are computed, not loaded."""

from video_ssl.models.weights import Renames

MAE_KEYS: Renames = (
    ("decoder_embed.", "decoder.embed."),
    ("decoder_pos_embed", None),
    ("decoder_blocks.", "decoder.blocks."),
    ("decoder_norm.", "decoder.norm."),
    ("decoder_pred.", "decoder.head."),
    ("mask_token", "decoder.mask_token"),
    ("pos_embed", None),
    ("", "encoder."),
)

VIDEOMAE_KEYS: Renames = (
    ("encoder_to_decoder.", "decoder.embed."),
    ("mask_token", "decoder.mask_token"),
)

#: Of students.
MVD_KEYS: Renames = (
    ("pos_embed", None),
    ("mask_token_img", "decoders.image.mask_token"),
    ("mask_token_vid", "decoders.video.mask_token"),
    ("down_img.", "decoders.image.embed."),
    ("down_vid.", "decoders.video.embed."),
    ("decoder_img.", "decoders.image."),
    ("decoder_vid.", "decoders.video."),
    ("", "encoder."),
)

CLASSIFIER_KEYS: Renames = (("fc_norm.", "fc_norm."), ("head.", "head."), ("", "encoder."))
