"""A flax objective that two encoders leave: CVRL's, and its moving average in a collection of variables of its own."""
