"""What a run came to: the summary that the command line shows, and the page with plots and examples."""
