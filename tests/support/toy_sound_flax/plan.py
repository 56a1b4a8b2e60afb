from toy_sound.plan import plans as plans
