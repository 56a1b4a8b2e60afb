"""Where something that an objective needs comes from.  Free of torch: recipes read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """An encoder that must exist before an objective starts.  Exactly one of the four is given.

    Attributes:
        run: a run folder, or a folder of one of its encoders (`encoder/`, `encoders/NAME/`).
        file: a published checkpoint (`.pth`, `.pt`, `.safetensors`) of MAE, VideoMAE or MVD.
        recipe: a pre-training recipe that is run first, as a stage of this run.
        stage: a stage of the run that this one is a stage of, by its name.  Where a stage would train a recipe that a
            stage before it has trained under the same name, this stands in its place.
        stream: of a `recipe`: the stream of this run whose tables the stage takes as its main data; null = the main
            one.  The others have no use for it.
    """

    run: str | None = None
    file: str | None = None
    recipe: str | None = None
    stage: str | None = None
    stream: str | None = None

    def __post_init__(self) -> None:
        names = ("run", "file", "recipe", "stage")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"an encoder source needs exactly one of run, file, recipe and stage, but has {given or 'none'}: set "
                "the one that holds the encoder and the others to null."
            )
        if self.run is not None and self.run.startswith("hub:"):
            raise ValueError(
                f"run={self.run!r} is a model of Hugging Face, but a training takes the folder of an encoder: write it "
                "with `video-ssl convert FOLDER NEW`, of the model's folder, and set run to NEW."
            )
        if self.stage is not None and not self.stage.isidentifier():
            raise ValueError(f"stage={self.stage!r} must be the name of a stage.")


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """A file that must exist before an objective starts and that the objective itself reads.

    It is no encoder: weights of a backbone or of a tokenizer, a vocabulary.
    """

    file: str


Source = EncoderSource | FileSource
