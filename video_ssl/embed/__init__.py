"""From a table of videos and a frozen encoder to a feature file."""
