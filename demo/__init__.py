"""`make demo`: pictures, captions, sound, films and a robot's recording go into a lake; two workers
make them searchable; a page shows what was found."""
