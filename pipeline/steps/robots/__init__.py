"""What hosts say of their links in files of their own: robots.txt, from a crawl's archives before anything is chosen, and
asked live; tdmrep.json, asked live."""
