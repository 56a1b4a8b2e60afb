from toy_sound.config import Config as Config
