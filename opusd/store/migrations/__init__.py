"""Numbered SQL files, one transaction each; PRAGMA user_version is the number of the last that ran."""
