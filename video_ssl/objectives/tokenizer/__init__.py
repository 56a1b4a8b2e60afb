"""A vocabulary of pictures: the tokenizer that BEVT takes its targets from."""
