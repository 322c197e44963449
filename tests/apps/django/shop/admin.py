from django.contrib import admin

from .models import Job, Run, Tick


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):
    list_display = ["key", "created"]
    search_fields = ["key"]


admin.site.register([Run, Tick])
