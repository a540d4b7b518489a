"""The back end that writes one C99 program for a network."""
