"""VideoMAE: hide tubes of a clip, regress the hidden pixels."""
