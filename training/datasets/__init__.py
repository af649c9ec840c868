"""Labelled photos in, manifests out.

panda_drawing ▶ panda_scenery ▶ pandas       drawn photos with labelme JSON beside them, from a seed
labelme ▶ splits ▶ import_labelme            labelme folders ─▶ one COCO manifest per split
manifest                                     COCO manifest ─▶ Detectron2's records
check, show                                  what is wrong with the labels; what they look like
"""
