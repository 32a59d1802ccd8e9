FROM scratch
COPY versitygw /versitygw
# Collecting garbage is a third of its time at 100.
ENV GOGC=400
USER 10001:10001
ENTRYPOINT ["/versitygw"]
