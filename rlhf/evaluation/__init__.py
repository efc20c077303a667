"""What a trained model is worth: its answers beside SFT's, their safety, diversity and beliefs, what it costs to serve,
and how well a reward model tells answers apart."""
