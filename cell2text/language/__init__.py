"""The controlled language: writing descriptions, reading them back, and the tasks that ask for them."""
