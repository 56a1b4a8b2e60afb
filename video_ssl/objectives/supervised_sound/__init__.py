"""Classification of what is heard: fine-tuning of an encoder of sound, of one class or several."""
