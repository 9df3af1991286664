import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.Base64;

/**
 * Calls a server as Java's own HttpClient does by default: it prefers HTTP/2, and so offers h2c with its requests.
 *
 * <p>Arguments are groups of three: a URL, how the body is framed ("length", "chunked", or a method without a body, as
 * "GET"), and the body in Base64. All go one after the other through one client. For each, one line: protocol, status,
 * body in Base64.
 */
public final class Calls {
    /** SHA-256 of this file with 64 zeros in place of the digits: the test holds class and source together. */
    static final String SOURCE = "0000000000000000000000000000000000000000000000000000000000000000";

    public static void main(String[] arguments) throws Exception {
        if (arguments.length == 0) {
            System.out.println(SOURCE);
            return;
        }
        HttpClient client = HttpClient.newHttpClient();
        for (int at = 0; at < arguments.length; at += 3) {
            HttpRequest request =
                    HttpRequest.newBuilder(URI.create(arguments[at]))
                            .method(method(arguments[at + 1]), body(arguments[at + 1], arguments[at + 2]))
                            .build();
            HttpResponse<byte[]> answer = client.send(request, HttpResponse.BodyHandlers.ofByteArray());
            String text = Base64.getEncoder().encodeToString(answer.body());
            System.out.println(answer.version() + " " + answer.statusCode() + " " + text);
        }
    }

    private static String method(String kind) {
        return kind.equals("length") || kind.equals("chunked") ? "POST" : kind;
    }

    private static HttpRequest.BodyPublisher body(String kind, String text) {
        byte[] bytes = Base64.getDecoder().decode(text.getBytes(StandardCharsets.US_ASCII));
        switch (kind) {
            case "length":
                return HttpRequest.BodyPublishers.ofByteArray(bytes);
            case "chunked": // its length is not known before, so that it goes in chunks
                return HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(bytes));
            default:
                return HttpRequest.BodyPublishers.noBody();
        }
    }

    private Calls() {}
}
