"""What a trained model is worth: its answers beside SFT's, and how well the reward model tells answers apart."""
