"""The user's model, data and loss: find, load, describe and check them."""
