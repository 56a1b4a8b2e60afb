"""MAE: hide patches of single frames, regress the hidden pixels."""
