"""Words for the captions of the exercises."""

from __future__ import annotations

from video_ssl.datasets.demo.video import Words

ACTIONS: dict[str, tuple[str, ...]] = {
    "squat": ("does a squat", "squats down and comes up again", "performs a deep squat"),
    "jumping_jack": ("does a jumping jack", "spreads arms and legs in a jumping jack", "performs a jumping jack"),
    "side_lunge": ("does a side lunge", "lunges to the side and back", "performs a lunge sideways"),
    "kick": ("kicks forward", "does a front kick", "performs a kick with one leg"),
    "throw": ("throws something overhead", "does an overhead throw", "winds up and throws"),
    "wave": ("waves with one hand", "greets with a wave", "raises an arm and waves"),
    "sit_down": ("sits down on the floor", "goes from standing to sitting", "takes a seat on the ground"),
    "stand_up": ("stands up from the floor", "goes from sitting to standing", "gets up from the ground"),
    "bow_then_reach": (
        "bows, then reaches up", "bows before reaching for the ceiling", "first bows and then stretches up",
    ),
    "reach_then_bow": (
        "reaches up, then bows", "reaches for the ceiling before a bow", "first stretches up and then bows",
    ),
}  # fmt: skip
"""Class -> ways to say it; every one of them implies the class."""

PHASES: dict[str, tuple[str, ...]] = {
    "lower": ("goes down into the squat", "bends the knees"),
    "rise": ("comes up from the squat", "straightens the knees"),
    "open": ("spreads arms and legs", "opens the jumping jack"),
    "close": ("brings arms and legs together", "closes the jumping jack"),
    "step_out": ("steps out into the lunge", "shifts the weight to the side"),
    "step_back": ("pushes back from the lunge", "returns to the middle"),
    "lift_knee": ("lifts the knee", "draws one leg up"),
    "extend": ("extends the leg into the kick", "kicks out"),
    "retract": ("puts the foot down again", "takes the leg back"),
    "wind_up": ("winds up for the throw", "takes the arm back"),
    "swing": ("swings the arm forward", "releases the throw"),
    "follow_through": ("follows through", "lets the throw run out"),
    "recover": ("recovers after the throw", "comes upright again"),
    "raise": ("raises one hand", "lifts an arm to greet"),
    "wave": ("moves the hand from side to side", "waves the raised hand"),
    "lower_hand": ("lowers the hand", "lets the arm sink"),
    "crouch": ("crouches to sit", "bends down to the floor"),
    "settle": ("settles on the floor", "sits back"),
    "lean_in": ("leans forward to get up", "gathers the legs to rise"),
    "straighten": ("straightens up", "rises to the feet"),
    "bow": ("bows down", "bends forward from the hips"),
    "unbow": ("comes up from the bow", "straightens the back"),
    "reach": ("reaches up with both arms", "stretches towards the ceiling"),
    "unreach": ("lets both arms sink", "brings the arms down"),
}  # fmt: skip
"""Phase -> ways to say what happens in it."""

TOPIC_WORDS: dict[str, tuple[str, ...]] = {
    "warm_up": ("a warm-up with several exercises", "someone warming up"),
    "contest": ("training for a contest", "someone practising kicks and throws"),
    "greeting": ("a person greeting and bowing", "a series of greetings"),
    "rest": ("someone going down and getting up", "a person resting and rising"),
}

WORDS = Words(actions=ACTIONS, phases=PHASES, topics=TOPIC_WORDS)
