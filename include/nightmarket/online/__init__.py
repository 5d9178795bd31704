"""What shoppers get between nights: experiments, canaries, and what a policy would have earned."""
