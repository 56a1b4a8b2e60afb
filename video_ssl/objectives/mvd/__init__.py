"""MVD: hide tubes of a clip, regress the features of frozen image and video teachers at the hidden places."""
