"""What a trained model is worth: its answers beside SFT's, how safe and diverse they are and what beliefs they state, what
it costs to serve, and how well a reward model tells answers apart."""
