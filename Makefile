# Each target sets up .venv when needed. Without make (Windows): py tools\course.py lab
PYTHON ?= python3
COURSE = $(PYTHON) tools/course.py

.PHONY: lab edit test course notebooks badges lab-kit readme bench soak clean
lab:        ## JupyterLab, opened on your own notebooks; NEW=07 for a new copy with your answers, FROM=folder for old answers
	$(COURSE) lab $(if $(NEW),--new "$(NEW)") $(if $(FROM),--from "$(FROM)")
edit:       ## for authors: JupyterLab on notebooks/, paired with notebooks/src
	$(COURSE) edit
test:       ## ruff, unit tests, every notebook under nbval with the network off
	$(COURSE) test
course:     ## run every notebook here and write HTML pages to build/course
	$(COURSE) course
notebooks:  ## rebuild the committed notebooks from notebooks/src; ONLY=01 for one
	$(COURSE) notebooks $(ONLY)
badges:     ## make badges REPO=owner/name: Colab links and clone address of your fork
	$(COURSE) badges $(REPO)
lab-kit:    ## for instructors, to build/lab-kit.zip; DATA=folder puts your images in
	$(COURSE) lab-kit $(if $(DATA),"$(DATA)")
readme:     ## the README's tables, from figures/ and the notebooks
	$(COURSE) readme
bench:      ## hours of measurements, to figures/
	$(COURSE) bench
soak:       ## hours of kills, damaged files, no network and load; PARTS="kill=15 fuzz=20000" for less
	$(COURSE) soak $(PARTS)
clean:
	rm -rf .venv build
