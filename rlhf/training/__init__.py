"""The one training loop. It is handed an objective and a stream of steps, and knows no algorithm."""
