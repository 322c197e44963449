from django.urls import path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("health/", views.health, name="health"),
    path("jobs/", views.create_job, name="create_job"),
    path("jobs/<str:key>/", views.job, name="job"),
]
