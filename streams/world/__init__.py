"""A made-up world of shoppers and business accounts, from a seed: pure, without a clock or a socket."""
