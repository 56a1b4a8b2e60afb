"""Ways to say what is done in the moving world: every action, and every phase of it."""

from __future__ import annotations

ACTION_WORDS: dict[str, tuple[str, ...]] = {
    "sit_down": ("sits down on the floor", "goes from standing to sitting", "takes a seat on the ground"),
    "stand_up": ("stands up from the floor", "goes from sitting to standing", "rises from a seat on the ground"),
    "walk": ("walks forward", "takes some steps ahead", "strolls straight on"),
    "walk_backwards": ("walks backwards", "takes some steps back", "retreats step by step"),
    "get_up": ("gets up from lying face down", "pushes up from the floor and rises", "goes from lying to standing"),
    "lie_down": ("lies down on the belly", "sinks to the floor and lies flat", "goes from standing to lying"),
    "roll": ("rolls forward over the head", "does a forward roll", "tumbles forward and comes up again"),
    "roll_backwards": ("rolls backwards over the head", "does a backward roll", "tumbles back and comes up again"),
    "bow_then_reach": (
        "bows, then reaches up", "bows before reaching for the ceiling", "first bows and then stretches up",
    ),
    "reach_then_bow": (
        "reaches up, then bows", "reaches for the ceiling before a bow", "first stretches up and then bows",
    ),
    "punch_then_kick": (
        "punches, then kicks", "throws a punch before a kick", "first strikes with the fist and then with the foot",
    ),
    "kick_then_punch": (
        "kicks, then punches", "kicks before throwing a punch", "first strikes with the foot and then with the fist",
    ),
    "jump_then_flip": (
        "jumps up, then does a backflip", "leaps up before a backflip", "first jumps and then flips over",
    ),
    "flip_then_jump": (
        "does a backflip, then jumps up", "flips over before a leap up", "first flips over and then jumps",
    ),
    "run": ("runs forward", "sprints ahead", "breaks into a run"),
    "cartwheel": ("does a cartwheel", "wheels over on both hands", "performs a cartwheel"),
    "spinkick": ("does a spinning kick in the air", "leaps into a spin kick", "kicks while spinning round"),
    "dance": ("dances with swinging arms", "swings from side to side in a dance", "does some dance steps"),
}  # fmt: skip
"""Action -> ways to say it; every one of them implies the action."""

PHASE_WORDS: dict[str, tuple[str, ...]] = {
    "crouch": ("crouches to sit", "bends down to the floor"),
    "settle": ("settles on the floor", "sits back"),
    "lean_in": ("leans forward to get up", "gathers the legs to rise"),
    "straighten": ("straightens up", "rises to the feet"),
    "set_off": ("sets off", "takes the first step ahead"),
    "stride": ("strides along", "walks on"),
    "halt": ("comes to a halt", "takes the last step ahead"),
    "back_off": ("backs off", "takes the first step back"),
    "stride_back": ("goes on backwards", "strides back"),
    "stop_back": ("stops going back", "takes the last step back"),
    "push_up": ("pushes up on both hands", "lifts the body off the floor"),
    "gather": ("brings the feet under the body", "hops into a squat"),
    "rise": ("rises from the squat", "comes upright from the squat"),
    "fold": ("folds down into a squat", "goes down on the haunches"),
    "hands_out": ("puts the hands down in front", "shoots the legs back"),
    "sink": ("sinks to the floor", "lowers the body to the ground"),
    "duck": ("ducks down to the hands", "lowers the head for the roll"),
    "tumble": ("tumbles over the back", "turns heels over head"),
    "come_up": ("comes up from the roll", "gets back to the feet"),
    "sit_back": ("sits back to the floor", "drops back for the roll"),
    "tumble_back": ("tumbles backwards over the shoulders", "turns over backwards"),
    "unfold": ("unfolds after the backward roll", "pushes off the hands and stands"),
    "bow": ("bows down", "bends forward from the hips"),
    "unbow": ("comes up from the bow", "straightens the back"),
    "reach": ("reaches up with both arms", "stretches towards the ceiling"),
    "unreach": ("lets both arms sink", "brings the arms down"),
    "punch": ("throws the punch", "strikes with the fist"),
    "draw_back": ("draws the fist back", "takes the arm back after the punch"),
    "kick": ("kicks out", "raises the leg into the kick"),
    "set_down": ("sets the foot down", "takes the leg back after the kick"),
    "leap": ("leaps up with both feet", "takes off for the jump"),
    "land": ("lands from the jump", "catches the jump with the knees"),
    "flip": ("takes off for the flip", "throws the body over backwards"),
    "alight": ("lands from the flip", "comes down on the feet after the flip"),
    "speed_up": ("speeds up", "breaks into the run"),
    "race": ("runs on", "races along"),
    "slow_down": ("slows down", "lets the run end"),
    "swing_over": ("swings over to the hands", "kicks the legs up and over"),
    "come_round": ("comes round to the feet", "lands from the cartwheel"),
    "spin_up": ("spins up into the air", "takes off for the spinning kick"),
    "touch_down": ("touches down", "lands from the spinning kick"),
    "swing_left": ("swings the left arm up", "sways to the left"),
    "swing_right": ("swings the right arm up", "sways to the right"),
    "close_dance": ("ends the dance", "lets the dance run out"),
}  # fmt: skip
"""Phase -> ways to say what happens in it."""
