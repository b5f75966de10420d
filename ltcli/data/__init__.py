"""Where images come from, which are kept, and how batches are made of them."""
