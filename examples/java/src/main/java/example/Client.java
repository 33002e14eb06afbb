package example;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;
import java.util.stream.LongStream;
import plexus.cache.v1.CacheControl;
import plexus.common.v1.Message;
import plexus.common.v1.Part;
import plexus.common.v1.Role;
import plexus.common.v1.ModelRequest;
import plexus.common.v1.Scope;
import plexus.gateway.v1.GatewayServiceGrpc;
import plexus.gateway.v1.GatewayServiceGrpc.GatewayServiceBlockingStub;
import plexus.gateway.v1.ChatRequest;
import plexus.gateway.v1.ChatResponse;
import plexus.gateway.v1.Resume;
import plexus.gateway.v1.Turn;

/**
 * A Plexus client: chats, cancels, handles typed errors, resumes a dropped stream.
 *
 * <p>Usage: {@code java -jar target/client.jar [host:port]}; PLEXUS_ADDRESS and PLEXUS_API_KEY are
 * read too.
 */
public final class Client {
  private static final long TIMEOUT_S = 60;
  private static final CacheControl NO_CACHE = CacheControl.newBuilder().setNoCache(true).build();

  private final GatewayServiceBlockingStub gateway;

  private Client(GatewayServiceBlockingStub gateway) {
    this.gateway = gateway;
  }

  public static void main(String[] arguments) throws InterruptedException {
    var environment = System.getenv();
    var address =
        arguments.length > 0
            ? arguments[0]
            : environment.getOrDefault("PLEXUS_ADDRESS", "127.0.0.1:50050");
    ManagedChannel channel =
        Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
    var headers = new Metadata();
    if (environment.containsKey("PLEXUS_API_KEY")) {
      var authorization = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
      headers.put(authorization, "Bearer " + environment.get("PLEXUS_API_KEY"));
    }
    var client =
        new Client(
            GatewayServiceGrpc.newBlockingStub(channel)
                .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers)));
    int exitCode = 0;
    try {
      client.chat();
      client.cancel();
      client.errors();
      client.resume();
    } catch (StatusRuntimeException error) {
      System.err.println(reason(error) + ": " + error.getStatus().getDescription());
      exitCode = 1;
    } catch (IllegalStateException error) {
      System.err.println(error.getMessage());
      exitCode = 1;
    }
    channel.shutdownNow().awaitTermination(1, TimeUnit.SECONDS);
    System.exit(exitCode);
  }

  /** Prints the answer as it comes. */
  private void chat() {
    stream(
        ask("What can you do for me?").build(),
        event -> {
          switch (event.getEventCase()) {
            case TEXT -> {
              System.out.print(event.getText());
              System.out.flush();
            }
            case RESET -> System.out.printf("%n(once more: %s)%n", event.getReset().getWhy());
            case COMPLETED -> {
              var completed = event.getCompleted();
              System.out.printf(
                  "%nchat: ok %s/%s%n", completed.getProvider(), completed.getModel());
            }
            case FAILED ->
                throw new IllegalStateException(
                    event.getFailed().getReason() + ": " + event.getFailed().getMessage());
            default -> {} // Stages, attempts, usage: what else there is to show.
          }
          return true;
        });
  }

  /** Leaves an answer in the middle: the mesh stops the model and books what was used. */
  private void cancel() {
    var seen = new ArrayList<ChatResponse>();
    stream(ask("Tell me a long story.").setCache(NO_CACHE).build(), untilText(seen));
    System.out.println("cancel: ok " + seen.get(0).getStarted().getRequestId());
  }

  /** Fails in both ways: a call that is refused has a status, a turn that breaks a failed event. */
  private void errors() {
    var reasons = new ArrayList<String>();
    try {
      var other = Scope.newBuilder().setTenant("someone-else").build();
      stream(ask("Hello.").setScope(other).build(), event -> true);
    } catch (StatusRuntimeException error) {
      reasons.add(reason(error));
    }
    var turn = ask("Hello.");
    turn.getRequestBuilder().setModel("no-such-model");
    stream(
        turn.build(),
        event -> {
          if (event.hasFailed()) {
            reasons.add(event.getFailed().getReason());
          }
          return true;
        });
    expect(reasons, List.of("TENANT_MISMATCH", "MODEL_NOT_FOUND"));
    reasons.forEach(reason -> System.out.println("error: " + reason));
  }

  /** Loses the connection after the first text and reads the rest, without gap or repetition. */
  private void resume() {
    var seen = new ArrayList<ChatResponse>();
    var turn = ask("Tell me another story.").setCache(NO_CACHE).setResumeWindowMs(10_000);
    stream(turn.build(), untilText(seen));
    long last = seen.get(seen.size() - 1).getSequence();
    System.out.println("resume: dropped after event " + last);

    var token = seen.get(0).getStarted().getResumeToken();
    var resume = Resume.newBuilder().setResumeToken(token).setAfterSequence(last);
    stream(ChatRequest.newBuilder().setResume(resume).build(), seen::add);
    var sequences = seen.stream().map(ChatResponse::getSequence).toList();
    expect(sequences, LongStream.rangeClosed(1, seen.size()).boxed().toList());
    expect(seen.get(seen.size() - 1).hasCompleted(), true);
    System.out.println("resume: ok " + seen.size() + " events");
  }

  private static Turn.Builder ask(String text) {
    var said = Message.newBuilder().setRole(Role.ROLE_USER).addParts(Part.newBuilder().setText(text));
    return Turn.newBuilder().setRequest(ModelRequest.newBuilder().addMessages(said));
  }

  /** Collects events and has had enough at the first text. */
  private static Predicate<ChatResponse> untilText(List<ChatResponse> seen) {
    return event -> {
      seen.add(event);
      return !event.hasText();
    };
  }

  private void stream(Turn turn, Predicate<ChatResponse> wantsMore) {
    stream(ChatRequest.newBuilder().setTurn(turn).build(), wantsMore);
  }

  /** Visits the events in order; the call is cancelled as soon as no more are wanted. */
  private void stream(ChatRequest request, Predicate<ChatResponse> wantsMore) {
    try (var call = Context.current().withCancellation()) {
      call.run(
          () -> {
            var events = gateway.withDeadlineAfter(TIMEOUT_S, TimeUnit.SECONDS).chat(request);
            boolean more = true;
            while (more && events.hasNext()) {
              more = wantsMore.test(events.next());
            }
          });
    } // Closing the context cancels its call.
  }

  /** Returns the reason that the mesh gave, or the status code when it could not give one. */
  private static String reason(StatusRuntimeException error) {
    for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        try {
          return detail.unpack(ErrorInfo.class).getReason();
        } catch (InvalidProtocolBufferException malformed) {
          break;
        }
      }
    }
    return error.getStatus().getCode().name();
  }

  private static void expect(Object got, Object wanted) {
    if (!got.equals(wanted)) {
      throw new IllegalStateException("expected " + wanted + ", got " + got);
    }
  }
}
