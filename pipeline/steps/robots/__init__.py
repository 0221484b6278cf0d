"""What hosts say of their links in files: robots.txt, of a crawl's archives before anything is chosen, or asked live;
tdmrep.json, asked live."""
